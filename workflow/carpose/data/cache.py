"""The image cache: every photo is decoded, cropped and scaled once; all trainings read the result.

In: the data folder and images.parquet. Out: a folder with `photos.npy` (N, H, W, 4) uint8 (red, green,
blue, mask), read through a memory map, and `cache.json` (ImageIds in row order, a digest of their photos
and masks, size of the photos, intrinsics, and the cache's view, which maps photo pixels to cache pixels).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from carpose.core import pictures
from carpose.core.errors import UserError
from carpose.core.files import write_text
from carpose.geometry import camera
from carpose.kaggle.photos import paths

VERIFIED = 16  # images that are made a second time and compared with the file


@dataclass(frozen=True)
class Cache:
    """An open cache: `photos[rows[image_id]]` is the image of one photo."""

    photos: np.ndarray  # (N, H, W, 4) uint8: red, green, blue, mask
    rows: dict[str, int]  # by ImageId
    view: np.ndarray  # 3×3, photo pixels → cache pixels
    photo_size: tuple[int, int]  # width, height in pixels
    intrinsics: np.ndarray  # 3×3, of the photos

    @property
    def crop(self) -> tuple[float, ...]:
        """The cached part of each photo: left, top, right, bottom as fractions."""
        return camera.crop_of(self.view, self.photo_size, self.photos.shape[2:0:-1])


def open_cache(folder: str | Path) -> Cache:
    """Open a cache; its images are read on access. Raises UserError if it is missing or incomplete."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        photos = np.load(folder / "photos.npy", mmap_mode="r")
        rows = {image_id: row for row, image_id in enumerate(meta["image_ids"])}
        view, intrinsics = (np.array(meta[key], float).reshape(3, 3) for key in ("view", "intrinsics"))
        width, height = meta["photo_size"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder}: not a complete image cache ({reason}); rerun the rule build_cache"
        ) from error
    if len(photos) != len(rows):
        raise UserError(
            f"{folder}: {len(photos)} images for {len(rows)} ImageIds; rerun the rule build_cache"
        )
    return Cache(photos, rows, view, (width, height), intrinsics)


@dataclass(frozen=True)
class Task:
    """One image to make: the files it is read from, how it is scaled, and the row it is written to."""

    row: int
    image_id: str
    photo: Path
    mask: Path | None
    view: np.ndarray  # 3×3, photo pixels → cache pixels
    size: tuple[int, int]  # width, height in the cache
    output: Path  # file with the array of all images


def build(
    data: Path, images: pd.DataFrame, folder: Path, crop: Sequence[float], scale: float, jobs: int
) -> None:
    """Build the cache in `folder`. An interrupted build of the same photos resumes where it stopped.

    images: the table of carpose.kaggle check; crop: left, top, right, bottom as fractions of the photo;
    scale: cache pixels per photo pixel; jobs: number of processes. Raises UserError if there are no photos,
    if their sizes differ, or if an image that was written reads back differently.
    """
    images = _select_images(data, images)
    photo_size = int(images["width"].iloc[0]), int(images["height"].iloc[0])
    width, height = (
        max(1, round((high - low) * length * scale))
        for low, high, length in zip(crop[:2], crop[2:], photo_size, strict=True)
    )
    size = width, height
    view = camera.crop_and_resize(photo_size, crop, size)
    meta = {
        "image_ids": images["ImageId"].tolist(),
        # Of the content of photos and masks: a training state is not resumed with other photos.
        "digest": hashlib.sha256("\n".join(images["digest"]).encode()).hexdigest(),
        "photo_size": photo_size,
        "intrinsics": camera.read_intrinsics(camera.intrinsics_file(data)).tolist(),
        "view": view.tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial, plan, text = folder / "photos.partial.npy", folder / "plan.json", json.dumps(meta)
    if not (plan.exists() and plan.read_text(encoding="utf-8") == text and partial.exists()):
        plan.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, "w+", np.uint8, (len(images), size[1], size[0], 4)).flush()
        np.lib.format.open_memmap(folder / "done.npy", "w+", bool, (len(images),)).flush()
        write_text(plan, text)
    tasks = []
    for row, image in enumerate(images.itertuples()):
        photo, mask = paths(data, image.split, image.ImageId)
        tasks.append(Task(row, image.ImageId, photo, mask if image.has_mask else None, view, size, partial))
    _fill_all(tasks, np.lib.format.open_memmap(folder / "done.npy", "r+"), jobs)
    _verify(tasks)
    with open(partial, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, folder / "photos.npy")
    write_text(folder / "cache.json", text)
    plan.unlink()
    (folder / "done.npy").unlink()


def _select_images(data: Path, images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the photos to cache, sorted. Raises UserError if there are none or their sizes differ."""
    if "digest" not in images:
        raise UserError(f"{data}: the table of images has no digests; rerun the rule check_data")
    used = images[images["excluded"] == ""].sort_values(["split", "ImageId"])
    if used.empty:
        raise UserError(f"{data}: every image is excluded; see the findings of the rule check_data")
    width, height = int(used["width"].iloc[0]), int(used["height"].iloc[0])
    other_size = used[(used["width"] != width) | (used["height"] != height)]
    if len(other_size):
        image = other_size.iloc[0]
        raise UserError(
            f"{data}: image {image.ImageId} is {image.width}×{image.height}, the first one {width}×{height}; "
            "all photos need one size, since they share one file of intrinsics: exclude the image in the "
            "configuration (exclude.images)"
        )
    return used


def _fill_all(tasks: list[Task], done: np.ndarray, jobs: int) -> None:
    """Make the images that are not marked in `done` (N,) bool, and mark them."""
    pending = [task for task in tasks if not done[task.row]]
    cv2.setNumThreads(1)  # before the fork: with inherited threads that do not run, a process would hang
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(_fill, pending, chunksize=4)
        for row in tqdm(rows, total=len(pending), desc="cache", mininterval=2, unit="photo"):
            done[row] = True


def _fill(task: Task) -> int:
    np.lib.format.open_memmap(task.output, "r+")[task.row] = _make_image(task)
    return task.row


def _verify(tasks: list[Task]) -> None:
    """Make some of the images again and compare them with the file. Raises UserError if one differs."""
    for task in tasks[:: -(-len(tasks) // VERIFIED) or 1]:
        if not np.array_equal(np.load(task.output, mmap_mode="r")[task.row], _make_image(task)):
            raise UserError(
                f"{task.output}: image {task.image_id} is not what was written; check the disk, then delete "
                "the folder and rerun build_cache"
            )


def _make_image(task: Task) -> np.ndarray:
    """(height, width, 4) uint8: the photo and its mask, cropped and scaled."""
    cv2.setNumThreads(1)
    photo = resample(pictures.read(task.photo), task.view, task.size)
    mask = np.zeros(task.size[::-1], np.uint8)
    if task.mask is not None:
        mask = resample(pictures.read(task.mask, grey=True), task.view, task.size)
    return np.dstack([photo, mask])


def resample(image: np.ndarray, view: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample by `view` (3×3) to `size` (width, height). Where it shrinks, areas are averaged first, against
    aliasing."""
    sx, sy = view[0, 0], view[1, 1]
    shrink_view = np.eye(3)
    if max(sx, sy) < 1:
        height, width = image.shape[:2]
        small = (round(width * min(sx, 1)), round(height * min(sy, 1)))
        shrink_view = camera.crop_and_resize((width, height), [0, 0, 1, 1], small)
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    warp = view @ np.linalg.inv(shrink_view)
    return cv2.warpPerspective(image, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
