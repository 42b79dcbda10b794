"""Samples for training and prediction: cached photo → network input, cars → targets.

A sample depends on nothing but the recipe's seed, the epoch and its place in the order, so that any
number of workers gives the same training and an interrupted one can go on in the middle of an epoch.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from . import UserError, augment, camera, codec, rotation
from .cache import Cache, open_cache
from .cars import ANGLES, POSITION
from .recipe import Recipe

MEAN = torch.tensor([0.485, 0.456, 0.406])  # ImageNet's, which pretrained weights expect
STD = torch.tensor([0.229, 0.224, 0.225])


class View:
    """A recipe's nominal view of the photos of a cache: matrices and sizes that belong together."""

    def __init__(self, cache: Cache, recipe: Recipe):
        self.size = (recipe.input_width, recipe.input_height)
        self.map_size = (recipe.input_width // codec.STRIDE, recipe.input_height // codec.STRIDE)
        self.matrix = camera.crop_and_resize(cache.photo_size, recipe.crop, self.size)
        self.from_cache = np.linalg.inv(cache.view)
        self.photo_intrinsics = cache.intrinsics
        self.map_intrinsics = camera.cells(codec.STRIDE) @ self.matrix @ cache.intrinsics
        self.focal_reference = camera.focal(self.map_intrinsics)


class Photos(torch.utils.data.Dataset):
    """Photos as they are, for prediction: (height, width, 4) uint8."""

    def __init__(self, cache_folder: Path, image_ids: list[str], recipe: Recipe):
        self.cache_folder, self.image_ids, self.recipe = cache_folder, image_ids, recipe
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
        return self.picture(self.image_ids[index], augment.identity(self.view.matrix))


class Samples(Photos):
    """Augmented photos with targets. Indexed by (epoch, place in the epoch's order, photo)."""

    def __init__(
        self, cache_folder: Path, image_ids: list[str], cars: pd.DataFrame, recipe: Recipe, pseudo: int = 0
    ):
        """cars: labels with weight 1, pseudo labels with weight 0 … 1 (0: unsure, left out of the loss)
        and, where it is known, depth_sigma (of log z).

        pseudo: so many photos, the last of image_ids, are pseudo-labelled and augmented more strongly.
        """
        super().__init__(cache_folder, image_ids, recipe)
        owner = pd.Index(image_ids).get_indexer(cars.ImageId)  # −1: another fold's
        order = np.argsort(owner, kind="stable")[(owner < 0).sum() :]
        self.start = np.searchsorted(owner[order], np.arange(len(image_ids) + 1))
        self.xyz = cars[POSITION].to_numpy(float)[order]
        self.rotation = rotation.matrix(cars[ANGLES].to_numpy(float)[order])
        self.weight = cars["weight"].to_numpy(float)[order]
        self.noise = cars["depth_sigma"].to_numpy(float)[order] if "depth_sigma" in cars else 0 * self.weight
        self.labelled = len(image_ids) - pseudo
        self.augmentation = [
            (strength, augment.Photometric(strength.colour))
            for strength in (recipe, augment.stronger(recipe, recipe.student))
        ]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[np.ndarray, codec.Targets, int]:
        self.open()
        epoch, place, index = key
        rng = np.random.default_rng([self.recipe.seed, epoch, place, index])
        strength, photometric = self.augmentation[index >= self.labelled]
        placement = augment.sample(strength, self.view.matrix, rng)
        picture = self.picture(self.image_ids[index], placement)
        picture = photometric(picture, int(rng.integers(2**31)))
        own = slice(self.start[index], self.start[index + 1])
        xyz, turn = placement.apply(self.xyz[own], self.rotation[own])
        intrinsics = camera.cells(codec.STRIDE) @ placement.view @ self.view.photo_intrinsics
        targets = codec.encode(
            xyz,
            turn,
            self.weight[own],
            intrinsics,
            self.view.map_size,
            self.view.focal_reference,
            self.recipe,
            self.noise[own],
        )
        if self.recipe.ignore_masks:
            masked = picture[codec.STRIDE // 2 :: codec.STRIDE, codec.STRIDE // 2 :: codec.STRIDE, 3] > 127
            masked.reshape(-1)[targets.peak] = False
            targets.ignore |= masked
        return picture, targets, index


def epoch_order(epoch: int, labelled: int, unlabelled: int, share: float, seed: int) -> np.ndarray:
    """The photos of one epoch: as many samples as labelled photos, `share` of them pseudo-labelled.

    Photos 0 … labelled−1 are labelled, the next `unlabelled` ones pseudo-labelled.
    """
    rng = np.random.default_rng([seed, epoch])
    extra = round(share * labelled) if unlabelled else 0
    chosen = rng.permutation(labelled)[: labelled - extra]
    rounds = -(-extra // max(unlabelled, 1))
    pseudo = [rng.permutation(unlabelled) + labelled for _ in range(rounds)]
    return rng.permutation(np.concatenate([chosen, *pseudo])[:labelled])


def batches(epoch: int, order: np.ndarray, batch_size: int, first: int) -> Iterator[list[tuple]]:
    """Keys of Samples in batches, from batch number `first` on; an incomplete last batch is dropped."""
    for batch in range(first, max(len(order) // batch_size, 1)):
        places = range(batch * batch_size, min((batch + 1) * batch_size, len(order)))
        yield [(epoch, place, int(order[place])) for place in places]


def collate(samples: list[tuple]) -> tuple[torch.Tensor, dict[str, torch.Tensor | np.ndarray], list[int]]:
    """Stack a batch. Maps are tensors, which come from a worker in shared memory; what is short stays an
    array, which comes through a pipe: as tensors these cost the training more than all the rest.
    """
    pictures, targets, indices = zip(*samples, strict=True)
    batch = codec.collate(list(targets))
    batch = {name: value if value.dim() > 2 else value.numpy() for name, value in batch.items()}
    return torch.from_numpy(np.stack(pictures)), batch, list(indices)


def network_input(pictures: torch.Tensor, device: torch.device, recipe: Recipe) -> torch.Tensor:
    """(B, H, W, 4) uint8 → (B, 3 or 4, H, W) float32, channels last, on the device."""
    pictures = pictures.to(device, non_blocking=True)
    shift, scale = (-MEAN / STD).to(device), (1 / (255 * STD)).to(device)
    inputs = torch.addcmul(shift, pictures[..., :3].float(), scale)  # one pass, and channels last already
    if recipe.mask_channel:
        inputs = torch.cat([inputs, pictures[..., 3:] / 255.0], dim=-1)
    return inputs.permute(0, 3, 1, 2)
