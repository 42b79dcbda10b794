"""Samples for training and prediction: cached photo → picture, cars → targets.

A sample depends on nothing but the recipe's seed, the epoch and its place in the order, so that any
number of workers gives the same training and an interrupted one can go on in the middle of an epoch.
"""

import mmap
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from carpose.config.recipe import Recipe
from carpose.core.cars import ANGLES, POSITION
from carpose.core.errors import UserError
from carpose.geometry import camera, rotation
from carpose.heads.head import STRIDE
from carpose.heads.targets import encode

from . import augment
from .cache import Cache, open_cache

# Pictures (bytes, or on the CPU what `normalised` makes of them), targets by name, ImageIds.
Batch = tuple[torch.Tensor, dict[str, torch.Tensor | np.ndarray], list[str]]
MASKED = 127  # the mask's value above which a pixel is masked


class View:
    """A recipe's nominal view of the photos of a cache: matrices and sizes that belong together."""

    def __init__(self, cache: Cache, recipe: Recipe):
        self.size = (recipe.input_width, recipe.input_height)
        self.matrix = camera.crop_and_resize(cache.photo_size, recipe.crop, self.size)
        if recipe.perspective:
            self.matrix = camera.magnify_top(self.size, recipe.perspective) @ self.matrix
        self.from_cache = np.linalg.inv(cache.view)
        self.photo_intrinsics = cache.intrinsics
        self.map_intrinsics = camera.cells(STRIDE) @ self.matrix @ cache.intrinsics
        self.focal_reference = camera.focal(self.map_intrinsics)


class Photos(torch.utils.data.Dataset):
    """Photos as they are, for prediction: (height, width, 4) uint8; or as a turned camera sees them."""

    def __init__(
        self, cache_folder: Path, image_ids: list[str], recipe: Recipe, scene: np.ndarray | None = None
    ):
        """scene: 3×3 rotation of the camera frame, see carpose.data.augment."""
        self.cache_folder, self.image_ids, self.recipe = cache_folder, image_ids, recipe
        self.scene = np.eye(3) if scene is None else scene
        self.cache = None
        unknown = set(image_ids) - set(open_cache(cache_folder).rows)
        if unknown:
            raise UserError(f"{cache_folder}: image {min(unknown)} is not in the cache; rerun build_cache")

    def open(self) -> None:
        """Each worker opens the memory map for itself."""
        if self.cache is None:
            cv2.setNumThreads(0)
            self.cache = open_cache(self.cache_folder)
            self.view = View(self.cache, self.recipe)

    def picture(self, image_id: str, placement: augment.Placement) -> np.ndarray:
        homography = placement.homography(self.cache.intrinsics) @ self.view.from_cache
        photo = self.cache.photos[self.cache.rows[image_id]]
        picture = augment.warp(photo, homography, self.view.size)
        # The system's memory keeps the file; this process would seem to hold all that it ever read of it.
        self.cache.photos.base.madvise(mmap.MADV_DONTNEED)
        return picture

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        self.open()
        return self.picture(self.image_ids[index], augment.Placement(self.scene, self.view.matrix))


class Sample(NamedTuple):
    """One augmented photo and what there is to see in it, in the camera frame of its augmentation."""

    picture: np.ndarray  # (H, W, 4) uint8, the mask last
    xyz: np.ndarray  # (N, 3) metres
    rotation: np.ndarray  # (N, 3, 3)
    weight: np.ndarray  # (N,)
    noise: np.ndarray  # (N,) standard deviation of a label's log z
    intrinsics: np.ndarray  # 3×3, of the output maps
    index: int  # of the photo


class Samples(Photos):
    """Augmented photos with their cars, indexed by (epoch, place in the epoch's order, photo).

    `collate` makes batches with targets of them.
    """

    def __init__(
        self, cache_folder: Path, image_ids: list[str], cars: pd.DataFrame, recipe: Recipe, pseudo: int = 0
    ):
        """cars: labels with weight 1, pseudo labels with weight 0 … 1 (0: left out of the loss) and, where it
        is known, depth_sigma (of log z); pseudo: so many photos, the last of image_ids, are pseudo-labelled.
        """
        super().__init__(cache_folder, image_ids, recipe)
        owner = pd.Index(image_ids).get_indexer(cars["ImageId"])  # −1: another fold's
        order = np.argsort(owner, kind="stable")[(owner < 0).sum() :]
        self.start = np.searchsorted(owner[order], np.arange(len(image_ids) + 1))
        self.xyz = cars[POSITION].to_numpy(float)[order]
        self.rotation = rotation.matrix(cars[ANGLES].to_numpy(float)[order])
        self.weight = cars["weight"].to_numpy(float)[order]
        self.noise = cars["depth_sigma"].to_numpy(float)[order] if "depth_sigma" in cars else 0 * self.weight
        self.labelled = len(image_ids) - pseudo
        # Of labelled and of pseudo-labelled photos.
        self.strengths = [recipe, augment.stronger(recipe, recipe.pseudo_augment_scale)]
        self.photometric = [augment.Photometric(strength.colour) for strength in self.strengths]

    def most_cars(self) -> int:
        """Of one photo, that something is learnt from."""
        counted = np.concatenate([[0], np.cumsum(self.weight > 0)])
        return int(np.diff(counted[self.start]).max(initial=0))

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        self.open()
        epoch, place, index = key
        rng = np.random.default_rng([self.recipe.seed, epoch, place, index])
        kind = int(index >= self.labelled)
        placement = augment.sample(self.strengths[kind], self.view.matrix, rng)
        picture = self.photometric[kind](self.picture(self.image_ids[index], placement), rng)
        cars = slice(self.start[index], self.start[index + 1])
        xyz, turn = placement.apply(self.xyz[cars], self.rotation[cars])
        intrinsics = camera.cells(STRIDE) @ placement.view @ self.view.photo_intrinsics
        return Sample(picture, xyz, turn, self.weight[cars], self.noise[cars], intrinsics, index)

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples → pictures (B, H, W, 4) uint8, targets by name, ImageIds.

        Maps are tensors, which come from a worker in shared memory; what is short stays an array, which
        comes through a pipe: as a tensor it would cost more than all the rest.
        """
        pictures, xyz, turn, weight, noise, intrinsics, indices = zip(*samples, strict=True)
        pictures, half = np.stack(pictures), STRIDE // 2
        targets = encode(
            np.concatenate(xyz),
            np.concatenate(turn),
            np.concatenate(weight),
            np.stack(intrinsics),
            (pictures.shape[2] // STRIDE, pictures.shape[1] // STRIDE),
            self.view.focal_reference,
            self.recipe,
            np.concatenate(noise) if self.noise.any() else None,  # in all batches or in none
            np.repeat(np.arange(len(xyz)), [len(positions) for positions in xyz]),
        )
        masked = pictures[:, half::STRIDE, half::STRIDE, 3] > MASKED
        masked.reshape(-1)[targets.peak] = False
        targets.ignore |= masked
        arrays = targets.arrays().items()
        batch = {name: torch.from_numpy(value) if value.ndim > 2 else value for name, value in arrays}
        return torch.from_numpy(pictures), batch, [self.image_ids[index] for index in indices]
