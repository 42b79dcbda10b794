"""Samples for training and prediction: cached photo → network input, cars → targets.

A sample depends on nothing but the recipe's seed, the epoch and its place in the order, so that any
number of workers gives the same training and an interrupted one can go on in the middle of an epoch.
"""

import functools
import mmap
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from . import UserError, augment, camera, codec, distributed, graphs, rotation, slots
from .cache import Cache, open_cache
from .cars import ANGLES, POSITION
from .recipe import Recipe

# Pictures (bytes, or on the CPU what `normalised` makes of them), targets by name, ImageIds.
Batch = tuple[torch.Tensor, dict[str, torch.Tensor | np.ndarray], list[str]]
# ImageNet's, which pretrained weights expect, but for those of EfficientNet-Lite (0.5 and 0.5).
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


class View:
    """A recipe's nominal view of the photos of a cache: matrices and sizes that belong together."""

    def __init__(self, cache: Cache, recipe: Recipe):
        self.size = (recipe.input_width, recipe.input_height)
        self.matrix = camera.crop_and_resize(cache.photo_size, recipe.crop, self.size)
        if recipe.perspective:
            self.matrix = camera.magnify_top(self.size, recipe.perspective) @ self.matrix
        self.from_cache = np.linalg.inv(cache.view)
        self.photo_intrinsics = cache.intrinsics
        self.map_intrinsics = camera.cells(codec.STRIDE) @ self.matrix @ cache.intrinsics
        self.focal_reference = camera.focal(self.map_intrinsics)


class Photos(torch.utils.data.Dataset):
    """Photos as they are, for prediction: (height, width, 4) uint8; or as a turned camera sees them."""

    def __init__(
        self, cache_folder: Path, image_ids: list[str], recipe: Recipe, scene: np.ndarray | None = None
    ):
        """scene: 3×3 rotation of the camera frame, see carpose.augment; without it the recipe's own."""
        self.cache_folder, self.image_ids, self.recipe = cache_folder, image_ids, recipe
        self.scene = augment.level(recipe) if scene is None else scene
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

    def picture(self, image_id: str, placement: augment.Placement, size: tuple[int, int]) -> np.ndarray:
        homography = placement.homography(self.cache.intrinsics) @ self.view.from_cache
        photo = self.cache.photos[self.cache.rows[image_id]]
        picture = augment.warp(photo, homography, size)
        # The system's memory keeps the file; this process would seem to hold all that it ever read of it.
        self.cache.photos.base.madvise(mmap.MADV_DONTNEED)
        return picture

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        self.open()
        placement = augment.Placement(self.scene, self.view.matrix)
        return self.picture(self.image_ids[index], placement, self.view.size)


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
        recipe: Recipe,
        pseudo: int = 0,
        epochs: int = 1,
    ):
        """cars: labels with weight 1, pseudo labels with weight 0 … 1 (0: unsure, left out of the loss)
        and, where it is known, depth_sigma (of log z).

        pseudo: so many photos, the last of image_ids, are pseudo-labelled and augmented more strongly;
        epochs: of the whole training, over the first half of which a progressive input size rises.
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
        self.epochs = epochs
        self.strengths = [recipe, augment.stronger(recipe, recipe.student)]
        self.photometric = [
            augment.Photometric(strength.colour, strength.colour_kind) for strength in self.strengths
        ]
        self.sizes: dict[int, tuple[View, list[Recipe]]] = {}

    def most_cars(self) -> int:
        """Of one photo, that something is learnt from."""
        sure = np.concatenate([[0], np.cumsum(self.weight > 0)])
        return int(np.diff(sure[self.start]).max(initial=0))

    def size_of(self, epoch: int, place: int) -> float:
        """The input size of a batch as a fraction of the full one."""
        smallest = self.recipe.resize_from
        if self.recipe.resize == "progressive":
            return min(1.0, smallest + (1 - smallest) * 2 * epoch / self.epochs)
        if self.recipe.resize == "random":
            batch = place // self.recipe.batch_size
            return np.random.default_rng([self.recipe.seed, epoch, batch]).uniform(smallest, 1.0)
        return 1.0

    def at_size(self, size: float) -> tuple[View, list[Recipe]]:
        """The view, and the two strengths of augmentation, at the nearest size that makes whole cells."""
        full = self.recipe.input_width, self.recipe.input_height
        width = max(32, round(size * full[0] / 32) * 32)
        if width not in self.sizes:
            height = round(full[1] * width / full[0] / codec.STRIDE) * codec.STRIDE
            own = [replace(one, input_width=width, input_height=height) for one in self.strengths]
            self.sizes[width] = View(self.cache, own[0]), own
        return self.sizes[width]

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        self.open()
        epoch, place, index = key
        rng = np.random.default_rng([self.recipe.seed, epoch, place, index])
        view, strengths = self.at_size(self.size_of(epoch, place))
        student = index >= self.labelled
        placement = augment.sample(strengths[student], view.matrix, rng)
        picture = self.picture(self.image_ids[index], placement, view.size)
        picture = self.photometric[student](picture, rng)
        own = slice(self.start[index], self.start[index + 1])
        xyz, turn = placement.apply(self.xyz[own], self.rotation[own])
        intrinsics = camera.cells(codec.STRIDE) @ placement.view @ view.photo_intrinsics
        return Sample(picture, xyz, turn, self.weight[own], self.noise[own], intrinsics, index)

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples of one size → pictures (B, H, W, 4) uint8, targets by name, ImageIds.

        Maps are tensors, which come from a worker in shared memory (for the CPU see carpose.slots); what is
        short stays an array, which comes through a pipe: as a tensor it would cost more than all the rest.
        """
        pictures, xyz, turn, weight, noise, intrinsics, indices = zip(*samples, strict=True)
        pictures, half = np.stack(pictures), codec.STRIDE // 2
        targets = codec.encode(
            np.concatenate(xyz),
            np.concatenate(turn),
            np.concatenate(weight),
            np.stack(intrinsics),
            (pictures.shape[2] // codec.STRIDE, pictures.shape[1] // codec.STRIDE),
            self.view.focal_reference,  # of the full size: a smaller input is as if seen from further away
            self.recipe,
            np.concatenate(noise),
            np.repeat(np.arange(len(xyz)), [len(own) for own in xyz]),
        )
        if self.recipe.ignore_masks:
            masked = pictures[:, half :: codec.STRIDE, half :: codec.STRIDE, 3] > 127
            masked.reshape(-1)[targets.peak] = False
            targets.ignore |= masked
        batch = {n: value if value.dim() > 2 else value.numpy() for n, value in targets.tensors().items()}
        return torch.from_numpy(pictures), batch, [self.image_ids[index] for index in indices]


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


def stream(samples: Samples, epoch: int, batch: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """This process's share of all batches from that one on to the end of the training.

    On the CPU each lasts until the next is taken, see carpose.slots, and pictures are normalised.
    Raises UserError where a GPU's workers have too little shared memory.

    The same workers prepare them throughout: new ones in each epoch would cost their start, and this process
    a copy of every page that it writes to for the first time after a fork.
    """
    recipe, unlabelled = samples.recipe, len(samples) - samples.labelled

    def keys() -> Iterator[list[tuple]]:
        for number in range(epoch, samples.epochs):
            order = epoch_order(number, samples.labelled, unlabelled, recipe.pseudo_share, recipe.seed)
            yield from batches(number, order, recipe.batch_size, batch if number == epoch else 0)

    options = {
        "batch_sampler": map(distributed.share, keys()),
        "generator": torch.Generator(),  # else the workers' seed would be drawn from the training's numbers
    }
    # Sizes are rounded to whole cells.
    pixels = recipe.batch_size * (recipe.input_width + 32) * (recipe.input_height + 32)
    maps = 8 * (pixels // codec.STRIDE**2)  # bytes of a batch's heat and ignore maps
    if device.type == "cuda":
        check_shared_memory(4 * pixels + maps, workers)  # of all processes together
        recorded = graphs.can_record(recipe, device)
        cars = max(recipe.batch_size * samples.most_cars(), 1)
        noisy = bool(samples.noise.any())

        def even(some: list[Sample]) -> Batch:
            pictures, targets, image_ids = samples.collate(some)
            return pictures, codec.padded(targets, cars, recipe, noisy), image_ids

        loader = torch.utils.data.DataLoader(
            samples,
            collate_fn=even if recorded else samples.collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=slots.apart,
            pin_memory=True,
            **options,
        )
        # To take a batch apart on the device is to wait for it.
        return on_device(loader, device) if recipe.accumulate == 1 else iter(loader)

    def collate(some: list[Sample]) -> Batch:
        pictures, *rest = samples.collate(some)
        return normalised(pictures, recipe), *rest

    return slots.loader(samples, collate, 16 * pixels + maps, workers, **options)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on a GPU, each brought there while the one before is computed on; pictures as bytes,
    a quarter of the way."""
    road = torch.cuda.Stream(device)
    under_way: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def next_there() -> Batch:
        (pictures, targets, image_ids), there = under_way.popleft()
        current = torch.cuda.current_stream(device)
        current.wait_event(there)
        for tensor in (pictures, *targets.values()):
            tensor.record_stream(current)  # its memory is not the road's again before that is done
        return pictures, targets, image_ids

    for pictures, targets, image_ids in batches:
        with torch.cuda.stream(road):
            pictures = pictures.to(device, non_blocking=True)
            moved = {
                name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in targets.items()
            }
        under_way.append(((pictures, moved, image_ids), road.record_event()))
        if len(under_way) > 1:
            yield next_there()
    while under_way:
        yield next_there()


def check_shared_memory(batch: int, workers: int, folder: str = "/dev/shm") -> None:
    """Raises UserError where the batches, of so many bytes, do not fit into the memory in which torch's
    workers leave them: it would wait for them for ever."""
    needed = 3 * workers * batch  # two made before, and one more for all that is on its way
    free = shutil.disk_usage(folder).free if Path(folder).exists() else needed
    if free < needed:
        raise UserError(
            f"workers: {workers} of them need {needed >> 20} MB in {folder}, which has {free >> 20} MB free; "
            f"give a container more (docker run --shm-size {-(-needed >> 30)}g), or take fewer workers"
        )


def network_input(pictures: torch.Tensor, device: torch.device, recipe: Recipe) -> torch.Tensor:
    """(B, H, W, 4) uint8, or what `normalised` made of it → (B, 3 or 4, H, W) float32, channels last, on the
    device."""
    pictures = pictures.to(device, non_blocking=True)
    if not pictures.is_floating_point():
        pictures = normalised(pictures, recipe)
    return pictures.permute(0, 3, 1, 2)


def normalised(pictures: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(B, H, W, 4) uint8 → (B, H, W, 3 or 4) float32: RGB less the mean by the deviation; the mask 0 … 1."""
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
    return torch.cat([inputs, pictures[..., 3:] / 255.0], dim=-1) if recipe.mask_channel else inputs


@functools.cache
def _shift_and_scale(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a row of pixels; kept, since to bring them to a GPU is to wait for it, and CUDA graphs read them."""
    with torch.inference_mode(False):
        return (-MEAN / STD).repeat(width).to(device), (1 / (255 * STD)).repeat(width).to(device)
