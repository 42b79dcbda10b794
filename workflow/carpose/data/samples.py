"""Samples for training and prediction: cached photo → picture → what a network reads; cars → targets.

A sample depends on nothing but the recipe's seed, the epoch and its place in the order, so that any
number of workers gives the same training and an interrupted one can go on in the middle of an epoch.
"""

import functools
import mmap
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from carpose.config.train_config import TrainConfig
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
# ImageNet's, which pretrained weights expect, but for those of EfficientNet-Lite (0.5 and 0.5).
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


class View:
    """A recipe's nominal view of the photos of a cache: matrices and sizes that belong together."""

    def __init__(self, cache: Cache, train_config: TrainConfig):
        self.size = (train_config.input_width, train_config.input_height)
        self.matrix = camera.crop_and_resize(cache.photo_size, train_config.crop, self.size)
        if train_config.perspective:
            self.matrix = camera.magnify_top(self.size, train_config.perspective) @ self.matrix
        self.from_cache = np.linalg.inv(cache.view)
        self.photo_intrinsics = cache.intrinsics
        self.map_intrinsics = camera.cells(STRIDE) @ self.matrix @ cache.intrinsics
        self.focal_reference = camera.focal(self.map_intrinsics)


class Photos(torch.utils.data.Dataset):
    """Photos as they are, for prediction: (height, width, 4) uint8; or as a turned camera sees them."""

    def __init__(
        self,
        cache_folder: Path,
        image_ids: list[str],
        train_config: TrainConfig,
        scene: np.ndarray | None = None,
    ):
        """scene: 3×3 rotation of the camera frame, see carpose.data.augment."""
        cv2.setNumThreads(0)  # workers, which are forked from here, are as many as there are cores for
        self.cache, self.image_ids, self.train_config = open_cache(cache_folder), image_ids, train_config
        self.view = View(self.cache, train_config)
        self.scene = np.eye(3) if scene is None else scene
        part, held = camera.visible_part(train_config.crop, train_config.perspective), self.cache.crop
        if not camera.lies_within(part, held):
            text = f"holds {camera.format_rectangle(held)} of the photos, and the model's view shows"
            advice = "build the cache with a wider --crop"
            raise UserError(f"{cache_folder}: {text} {camera.format_rectangle(part)}; {advice}")
        unknown = set(image_ids) - set(self.cache.rows)
        if unknown:
            raise UserError(f"{cache_folder}: image {min(unknown)} is not in the cache; rerun build_cache")

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
        self,
        cache_folder: Path,
        image_ids: list[str],
        cars: pd.DataFrame,
        train_config: TrainConfig,
        pseudo: int = 0,
    ):
        """cars: labels with weight 1, pseudo labels with weight 0 … 1 (0: left out of the loss) and, where it
        is known, depth_sigma (of log z); pseudo: so many photos, the last of image_ids, are pseudo-labelled.
        """
        super().__init__(cache_folder, image_ids, train_config)
        owner = pd.Index(image_ids).get_indexer(cars["ImageId"])  # −1: another fold's
        order = np.argsort(owner, kind="stable")[(owner < 0).sum() :]
        self.start = np.searchsorted(owner[order], np.arange(len(image_ids) + 1))
        self.xyz = cars[POSITION].to_numpy(float)[order]
        self.rotation = rotation.matrix(cars[ANGLES].to_numpy(float)[order])
        self.weight = cars["weight"].to_numpy(float)[order]
        self.noise = cars["depth_sigma"].to_numpy(float)[order] if "depth_sigma" in cars else 0 * self.weight
        self.labelled = len(image_ids) - pseudo
        # Of labelled and of pseudo-labelled photos.
        self.strengths = [train_config, augment.stronger(train_config, train_config.pseudo_augment_scale)]
        self.photometric = [augment.Photometric(strength.colour) for strength in self.strengths]

    def most_cars(self) -> int:
        """Of one photo, that something is learnt from."""
        counted = np.concatenate([[0], np.cumsum(self.weight > 0)])
        return int(np.diff(counted[self.start]).max(initial=0))

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, place, index = key
        rng = np.random.default_rng([self.train_config.seed, epoch, place, index])
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
        pictures = np.stack(pictures)
        targets = encode(
            np.concatenate(xyz),
            np.concatenate(turn),
            np.concatenate(weight),
            np.stack(intrinsics),
            (pictures.shape[2] // STRIDE, pictures.shape[1] // STRIDE),
            self.view.focal_reference,
            self.train_config,
            np.concatenate(noise) if self.noise.any() else None,  # in all batches or in none
            np.repeat(np.arange(len(xyz)), [len(positions) for positions in xyz]),
        )
        masked = masked_cells(pictures)
        masked.reshape(-1)[targets["peak"]] = False
        targets["ignore"] |= masked
        batch = {n: torch.from_numpy(value) if value.ndim > 2 else value for n, value in targets.items()}
        return torch.from_numpy(pictures), batch, [self.image_ids[index] for index in indices]


def masked_cells(pictures):
    """(B, H, W, 4) uint8, array or tensor → (B, H/4, W/4) bool: whether the middle of a cell is masked."""
    middle = STRIDE // 2
    return pictures[:, middle::STRIDE, middle::STRIDE, 3] > MASKED


def network_input(pictures: torch.Tensor, device: torch.device, train_config: TrainConfig) -> torch.Tensor:
    """(B, H, W, 4) uint8, or what `normalised` made of it → (B, 3 or 4, H, W) float32, channels last, on the
    device."""
    pictures = pictures.to(device, non_blocking=True)
    if not pictures.is_floating_point():
        pictures = normalised(pictures, train_config)
    return pictures.permute(0, 3, 1, 2)


def normalised(pictures: torch.Tensor, train_config: TrainConfig) -> torch.Tensor:
    """(B, H, W, 4) uint8 → (B, H, W, 3 or 4) float32: (RGB − mean) / standard deviation; the mask 0 … 1."""
    batch, height, width, _ = pictures.shape
    colour = pictures[..., :3]
    if pictures.device.type == "cpu":
        # OpenCV takes three of four channels five times as fast as PyTorch does on a CPU.
        rgb = cv2.cvtColor(pictures.reshape(-1, width, 4).numpy(), cv2.COLOR_RGBA2RGB)
        colour = torch.from_numpy(rgb)
    # A row at a time: three channels at a time are three times as slow.
    rows = colour.reshape(batch, height, 3 * width).float()
    shift, scale = _shift_and_scale(width, rows.device)
    torch.addcmul(shift, rows, scale, out=rows)
    inputs = rows.view(batch, height, width, 3)
    return torch.cat([inputs, pictures[..., 3:] / 255.0], dim=-1) if train_config.mask_channel else inputs


@functools.cache
def _shift_and_scale(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a row of pixels; kept, since to bring them to a GPU is to wait for it, and CUDA graphs read them."""
    with torch.inference_mode(False):
        return (-MEAN / STD).repeat(width).to(device), (1 / (255 * STD)).repeat(width).to(device)
