"""The picture cache: every photo decoded, cropped and scaled once, shared by all trainings.

In: the data folder and images.parquet. Out: a folder with `photos.npy` (N, H, W, 4) uint8 (red, green,
blue, mask), read through a memory map, and `cache.json` (ImageIds in row order, a digest of their photos
and masks, size of the photos, intrinsics, the cache's view: photo pixels → cache pixels).
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

CHECKED = 16  # pictures that are made a second time


@dataclass(frozen=True)
class Cache:
    """An open cache. `photos[rows[image_id]]` is a picture; `view` maps photo pixels to its pixels."""

    photos: np.ndarray
    rows: dict[str, int]
    view: np.ndarray
    photo_size: tuple[int, int]
    intrinsics: np.ndarray

    @property
    def crop(self) -> tuple[float, ...]:
        """What it holds of the photos: left, top, right, bottom as fractions."""
        return camera.crop_of(self.view, self.photo_size, self.photos.shape[2:0:-1])


def open_cache(folder: str | Path) -> Cache:
    """Open for reading; nothing is loaded yet. Raises UserError where it is missing or incomplete."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "cache.json").read_text())
        photos = np.load(folder / "photos.npy", mmap_mode="r")
        rows = {image_id: row for row, image_id in enumerate(meta["image_ids"])}
        view, intrinsics = (np.array(meta[key], float).reshape(3, 3) for key in ("view", "intrinsics"))
        width, height = meta["photo_size"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder}: not a complete picture cache ({reason}); rerun the rule build_cache"
        ) from error
    if len(photos) != len(rows):
        raise UserError(f"{folder}: {len(photos)} pictures for {len(rows)} ImageIds; delete it")
    return Cache(photos, rows, view, (width, height), intrinsics)


@dataclass(frozen=True)
class Task:
    """One picture to make: where it is read from, how it is scaled, which row it fills."""

    row: int
    image_id: str
    photo: Path
    mask: Path | None
    view: np.ndarray  # 3×3, photo pixels → cache pixels
    size: tuple[int, int]  # width, height in the cache
    output: Path  # array of all pictures


def build(
    data: Path, images: pd.DataFrame, folder: Path, crop: Sequence[float], scale: float, jobs: int
) -> None:
    """Fill the cache. An interrupted build of the same photos goes on where it stopped.

    images: the check's table; crop: left, top, right, bottom as fractions of the photo; scale: cache pixels
    per photo pixel; jobs: processes.
    """
    used = _used(data, images)
    photo_size = int(used["width"].iloc[0]), int(used["height"].iloc[0])
    size = tuple(
        max(1, round((high - low) * length * scale))
        for low, high, length in zip(crop[:2], crop[2:], photo_size, strict=True)
    )
    view = camera.crop_and_resize(photo_size, crop, size)
    meta = {
        "image_ids": used["ImageId"].tolist(),
        # Of the photos and masks themselves: a training on others is another training.
        "digest": hashlib.sha256("\n".join(used["digest"]).encode()).hexdigest(),
        "photo_size": photo_size,
        "intrinsics": camera.read_intrinsics(camera.intrinsics_file(data)).tolist(),
        "view": view.tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial, plan, text = folder / "photos.partial.npy", folder / "plan.json", json.dumps(meta)
    if not (plan.exists() and plan.read_text() == text and partial.exists()):
        plan.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, "w+", np.uint8, (len(used), size[1], size[0], 4)).flush()
        np.lib.format.open_memmap(folder / "done.npy", "w+", bool, (len(used),)).flush()
        write_text(plan, text)
    tasks = []
    for row, image in enumerate(used.itertuples()):
        photo, mask = paths(data, image.split, image.ImageId)
        tasks.append(Task(row, image.ImageId, photo, mask if image.has_mask else None, view, size, partial))
    _fill_all(tasks, np.lib.format.open_memmap(folder / "done.npy", "r+"), jobs)
    _check(tasks)
    with open(partial, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, folder / "photos.npy")
    write_text(folder / "cache.json", text)
    plan.unlink()
    (folder / "done.npy").unlink()


def _used(data: Path, images: pd.DataFrame) -> pd.DataFrame:
    """The photos to cache in their order. Raises UserError where there are none or their sizes differ."""
    if "digest" not in images:
        raise UserError(f"{data}: the table of images has no digests; run the check again (rule check_data)")
    used = images[images["excluded"] == ""].sort_values(["split", "ImageId"])
    if used.empty:
        raise UserError(f"{data}: no image is left to work with; see the table of findings")
    width, height = int(used["width"].iloc[0]), int(used["height"].iloc[0])
    odd = used[(used["width"] != width) | (used["height"] != height)]
    if len(odd):
        raise UserError(
            f"{data}: image {odd.ImageId.iloc[0]} is {odd.width.iloc[0]}×{odd.height.iloc[0]}, the others "
            f"{width}×{height}; one file of intrinsics cannot serve both: exclude it in the config"
        )
    return used


def _fill_all(tasks: list[Task], done: np.ndarray, jobs: int) -> None:
    """Make the pictures that are not `done` (N,) yet, and mark them."""
    left = [task for task in tasks if not done[task.row]]
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(_fill, left, chunksize=4)
        for row in tqdm(rows, total=len(left), desc="cache", mininterval=2, unit="photo"):
            done[row] = True


def _fill(task: Task) -> int:
    np.lib.format.open_memmap(task.output, "r+")[task.row] = _picture(task)
    return task.row


def _check(tasks: list[Task]) -> None:
    """Make some of the pictures again: what is in the file must be they. Raises UserError if it is not."""
    for task in tasks[:: -(-len(tasks) // CHECKED) or 1]:
        if not np.array_equal(np.load(task.output, mmap_mode="r")[task.row], _picture(task)):
            raise UserError(
                f"{task.output}: image {task.image_id} is not what was written; is the disk broken? "
                "Delete the folder and rerun build_cache"
            )


def _picture(task: Task) -> np.ndarray:
    """(height, width, 4): the photo and its mask as the cache holds them."""
    cv2.setNumThreads(1)
    photo = _shrink(pictures.read(task.photo), task.view, task.size)
    mask = np.zeros(task.size[::-1], np.uint8)
    if task.mask is not None:
        mask = _shrink(pictures.read(task.mask, grey=True), task.view, task.size)
    return np.dstack([photo, mask])


def _shrink(picture: np.ndarray, view: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample under `view` into `size`. Shrinking averages areas first, so that nothing aliases."""
    sx, sy = view[0, 0], view[1, 1]
    before = np.eye(3)
    if max(sx, sy) < 1:
        height, width = picture.shape[:2]
        small = (round(width * min(sx, 1)), round(height * min(sy, 1)))
        before = camera.crop_and_resize((width, height), [0, 0, 1, 1], small)
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    warp = view @ np.linalg.inv(before)
    return cv2.warpPerspective(picture, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
