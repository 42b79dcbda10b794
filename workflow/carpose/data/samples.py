"""Samples for training and prediction: cached photo → image → network input; cars → targets.

A sample depends on the training's seed, the epoch, its position in the epoch and the photo alone. So any
number of workers gives the same training, and a training can resume in the middle of an epoch.
"""

import functools
import mmap
from pathlib import Path
from typing import NamedTuple, cast

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
from .training_camera import TrainingCamera

# Images (uint8, or on the CPU the output of `normalised`), targets by name, ImageIds.
Batch = tuple[torch.Tensor, dict[str, torch.Tensor | np.ndarray], list[str]]
MASK_THRESHOLD = 127  # a pixel is masked where the mask's value is above this
# ImageNet mean and std, which published network weights expect (those of EfficientNet-Lite: 0.5 and 0.5).
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


class NominalView:
    """The nominal (not augmented) mapping of the photos of a cache to the network's input.

    size: width, height of the input; 3×3 matrices: `matrix` (photo pixels → network pixels), `from_cache`
    (cache pixels → photo pixels), `photo_intrinsics`, and `map_intrinsics` of the output maps;
    focal_reference: focal length of these maps in cells.
    """

    def __init__(self, cache: Cache | TrainingCamera, train_config: TrainConfig):
        self.size = (train_config.input_width, train_config.input_height)
        self.matrix = camera.crop_and_resize(cache.photo_size, train_config.crop, self.size)
        if train_config.perspective:
            self.matrix = camera.magnify_top(self.size, train_config.perspective) @ self.matrix
        self.from_cache = np.linalg.inv(cache.view)
        self.photo_intrinsics = cache.intrinsics
        self.map_intrinsics = camera.cells(STRIDE) @ self.matrix @ cache.intrinsics
        self.focal_reference = cast(float, camera.focal(self.map_intrinsics))  # of one matrix, so a number


class CachedPhotos(torch.utils.data.Dataset):
    """Photos of a cache, warped to the network's input. Raises UserError if a photo is not in the cache, or
    if the cache's crop is too narrow."""

    def __init__(
        self,
        cache_folder: Path,
        image_ids: list[str],
        train_config: TrainConfig,
        scene: np.ndarray | None = None,
    ):
        """cache_folder: of carpose.data.cache; scene: 3×3 rotation of the camera frame (test-time view)."""
        cv2.setNumThreads(0)  # also in the forked workers, which use all cores already
        self.cache, self.image_ids, self.train_config = open_cache(cache_folder), image_ids, train_config
        self.view = NominalView(self.cache, train_config)
        self.scene = np.eye(3) if scene is None else scene
        visible, cached = camera.visible_part(train_config.crop, train_config.perspective), self.cache.crop
        if not camera.lies_within(visible, cached):
            text = f"contains {camera.format_rectangle(cached)} of the photos, but the network's input shows"
            advice = "build the cache with a larger crop (cache.crop)"
            raise UserError(f"{cache_folder}: {text} {camera.format_rectangle(visible)}; {advice}")
        missing = set(image_ids) - set(self.cache.rows)
        if missing:
            raise UserError(f"{cache_folder}: image {min(missing)} is not in the cache; rerun build_cache")

    def image(self, image_id: str, placement: augment.Placement) -> np.ndarray:
        """The photo as this placement shows it: (height, width, 4) uint8."""
        homography = placement.homography(self.cache.intrinsics) @ self.view.from_cache
        photo = self.cache.photos[self.cache.rows[image_id]]
        image = augment.warp(photo, homography, self.view.size)
        # Release the pages, or they count as our memory; the page cache of the system keeps the file.
        self.cache.photos.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]  # base: the mmap
        return image

    def __len__(self) -> int:
        return len(self.image_ids)


class Photos(CachedPhotos):
    """Photos for prediction, without augmentation: (height, width, 4) uint8."""

    def __getitem__(self, index: int) -> np.ndarray:
        return self.image(self.image_ids[index], augment.Placement(self.scene, self.view.matrix))


class Sample(NamedTuple):
    """One augmented photo and its cars, in the camera frame after augmentation."""

    image: np.ndarray  # (H, W, 4) uint8: red, green, blue, mask
    xyz: np.ndarray  # (N, 3) metres
    rotation: np.ndarray  # (N, 3, 3)
    weight: np.ndarray  # (N,) sample weights, see Samples
    noise: np.ndarray  # (N,) standard deviation of the label's log z
    intrinsics: np.ndarray  # 3×3, of the output maps
    photo_index: int


class Samples(CachedPhotos):
    """Augmented photos with their cars, indexed by (epoch, position in the epoch, index of the photo).

    `collate` makes them into a batch with targets.
    """

    def __init__(
        self,
        cache_folder: Path,
        image_ids: list[str],
        cars: pd.DataFrame,
        train_config: TrainConfig,
        pseudo_count: int = 0,
    ):
        """cars: table with the sample weight in `weight` (1 for a label, 0 … 1 for a pseudo label; 0 leaves
        the car's region out of the loss) and optionally depth_sigma (standard deviation of log z);
        pseudo_count: number of pseudo-labelled photos, the last ones of image_ids."""
        super().__init__(cache_folder, image_ids, train_config)
        photo_index = pd.Index(image_ids).get_indexer(cars["ImageId"])  # −1: a photo that is not used
        order = np.argsort(photo_index, kind="stable")[(photo_index < 0).sum() :]
        self.first_car = np.searchsorted(photo_index[order], np.arange(len(image_ids) + 1))
        self.xyz = cars[POSITION].to_numpy(float)[order]
        self.rotation = rotation.matrix(cars[ANGLES].to_numpy(float)[order])
        self.weight = cars["weight"].to_numpy(float)[order]
        self.noise = cars["depth_sigma"].to_numpy(float)[order] if "depth_sigma" in cars else 0 * self.weight
        self.labelled_count = len(image_ids) - pseudo_count
        # For labelled and for pseudo-labelled photos.
        self.augment_configs = [
            train_config,
            augment.scale_augmentation(train_config, train_config.pseudo_augment_scale),
        ]
        self.photometric = [augment.Photometric(config.colour) for config in self.augment_configs]

    def max_cars(self) -> int:
        """The largest number of cars with a positive sample weight on one photo."""
        counted = np.concatenate([[0], np.cumsum(self.weight > 0)])
        return int(np.diff(counted[self.first_car]).max(initial=0))

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, position, index = key
        rng = np.random.default_rng([self.train_config.seed, epoch, position, index])
        is_pseudo = int(index >= self.labelled_count)
        placement = augment.sample_placement(self.augment_configs[is_pseudo], self.view.matrix, rng)
        image = self.photometric[is_pseudo](self.image(self.image_ids[index], placement), rng)
        cars = slice(self.first_car[index], self.first_car[index + 1])
        xyz, rotations = placement.apply(self.xyz[cars], self.rotation[cars])
        intrinsics = camera.cells(STRIDE) @ placement.view @ self.view.photo_intrinsics
        return Sample(image, xyz, rotations, self.weight[cars], self.noise[cars], intrinsics, index)

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples → images (B, H, W, 4) uint8, targets by name, ImageIds.

        Maps become tensors, which workers pass on in shared memory. Short targets stay NumPy
        arrays: small arrays are cheaper through the pipe.
        """
        images, xyz, rotations, weight, noise, intrinsics, indices = zip(*samples, strict=True)
        images = np.stack(images)
        targets = encode(
            np.concatenate(xyz),
            np.concatenate(rotations),
            np.concatenate(weight),
            np.stack(intrinsics),
            (images.shape[2] // STRIDE, images.shape[1] // STRIDE),
            self.view.focal_reference,
            self.train_config,
            np.concatenate(noise) if self.noise.any() else None,  # of all batches or of none
            np.repeat(np.arange(len(xyz)), [len(positions) for positions in xyz]),
        )
        masked = masked_cells(images)
        masked.reshape(-1)[targets["peak"]] = False
        targets["ignore"] |= masked
        batch = {n: torch.from_numpy(value) if value.ndim > 2 else value for n, value in targets.items()}
        return torch.from_numpy(images), batch, [self.image_ids[index] for index in indices]


def masked_cells(images: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
    """(B, H, W, 4) uint8, array or tensor → (B, H/4, W/4) bool: whether the centre of the cell is masked."""
    centre = STRIDE // 2
    return images[:, centre::STRIDE, centre::STRIDE, 3] > MASK_THRESHOLD


def network_input(images: torch.Tensor, device: torch.device, train_config: TrainConfig) -> torch.Tensor:
    """(B, H, W, 4) uint8, or the output of `normalised` → (B, 3 or 4, H, W) float32 on the device, in the
    memory format channels_last."""
    images = images.to(device, non_blocking=True)
    if not images.is_floating_point():
        images = normalised(images, train_config)
    return images.permute(0, 3, 1, 2)


def normalised(images: torch.Tensor, train_config: TrainConfig) -> torch.Tensor:
    """(B, H, W, 4) uint8 → (B, H, W, 3 or 4) float32: (RGB − mean) / std, and the mask as 0 … 1."""
    batch, height, width, _ = images.shape
    colour = images[..., :3]
    if images.device.type == "cpu":
        # On a CPU OpenCV drops the fourth channel five times as fast as PyTorch.
        rgb = cv2.cvtColor(images.reshape(-1, width, 4).numpy(), cv2.COLOR_RGBA2RGB)
        colour = torch.from_numpy(rgb)
    # Broadcast over whole rows: over three channels it is three times as slow.
    rows = colour.reshape(batch, height, 3 * width).float()
    shift, scale = _shift_and_scale(width, rows.device)
    torch.addcmul(shift, rows, scale, out=rows)
    inputs = rows.view(batch, height, width, 3)
    return torch.cat([inputs, images[..., 3:] / 255.0], dim=-1) if train_config.mask_channel else inputs


@functools.cache
def _shift_and_scale(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """−mean/std and 1/(255·std), (3·width,) each. Cached: a copy to a GPU would wait for it, and CUDA graphs
    need constants at fixed addresses."""
    with torch.inference_mode(False):
        return (-MEAN / STD).repeat(width).to(device), (1 / (255 * STD)).repeat(width).to(device)
