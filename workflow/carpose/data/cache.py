"""The picture cache: every photo decoded, cropped and scaled once, shared by all trainings.

In: the data folder and images.parquet. Out: a folder with `photos.npy` (N, H, W, 4) uint8 (red, green,
blue, mask), read through a memory map, and `cache.json` (ImageIds in row order, size of the photos,
intrinsics, the cache's view: photo pixels → cache pixels).
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from . import UserError, camera, parquet
from .files import run_main, write_text
from .options import real, whole


@dataclass(frozen=True)
class Cache:
    """An open cache. `photos[rows[image_id]]` is a picture; `view` maps photo pixels to its pixels."""

    photos: np.ndarray
    rows: dict[str, int]
    view: np.ndarray
    photo_size: tuple[int, int]
    intrinsics: np.ndarray


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


def build(data: Path, images: pd.DataFrame, folder: Path, crop: list[float], scale: float, jobs: int) -> None:
    """Fill the cache. A build that was interrupted goes on where it stopped.

    crop: left, top, right, bottom as fractions of the photo; scale: cache pixels per photo pixel.
    """
    used = images[images.excluded == ""].sort_values(["split", "ImageId"])
    if used.empty:
        raise UserError(f"{data}: no image is left to work with; see the table of findings")
    width, height = int(used.width.iloc[0]), int(used.height.iloc[0])
    odd = used[(used.width != width) | (used.height != height)]
    if len(odd):
        raise UserError(
            f"{data}: image {odd.ImageId.iloc[0]} is {odd.width.iloc[0]}×{odd.height.iloc[0]}, the others "
            f"{width}×{height}; one file of intrinsics cannot serve both: exclude it in the config"
        )
    size = (
        max(1, round((crop[2] - crop[0]) * width * scale)),
        max(1, round((crop[3] - crop[1]) * height * scale)),
    )
    view = camera.crop_and_resize((width, height), crop, size)
    meta = {
        "image_ids": used.ImageId.tolist(),
        "photo_size": [width, height],
        "intrinsics": camera.read_intrinsics(data / "camera" / "camera_intrinsic.txt").tolist(),
        "view": view.tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial, plan = folder / "photos.partial.npy", folder / "plan.json"
    text = json.dumps(meta)
    if not (plan.exists() and plan.read_text() == text and partial.exists()):
        plan.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, "w+", np.uint8, (len(used), size[1], size[0], 4)).flush()
        np.lib.format.open_memmap(folder / "done.npy", "w+", bool, (len(used),)).flush()
        write_text(plan, text)
    done = np.lib.format.open_memmap(folder / "done.npy", "r+")
    tasks = [
        (row, data, image.ImageId, image.split, image.has_mask, partial, view, size)
        for row, image in enumerate(used.itertuples())
    ]
    left = [task for task in tasks if not done[task[0]]]
    with ProcessPoolExecutor(jobs) as pool:
        for row in tqdm(
            pool.map(_fill, left, chunksize=4), total=len(left), desc="cache", mininterval=2, unit="photo"
        ):
            done[row] = True
    _check(tasks)
    with open(partial, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, folder / "photos.npy")
    write_text(folder / "cache.json", text)
    plan.unlink()
    (folder / "done.npy").unlink()


def _fill(task: tuple) -> int:
    np.lib.format.open_memmap(task[5], "r+")[task[0]] = _picture(task)
    return task[0]


def _check(tasks: list[tuple], count: int = 16) -> None:
    """Make some of the pictures again: what is in the file must be they. Raises UserError if it is not."""
    for task in tasks[:: -(-len(tasks) // count) or 1]:
        row, _, image_id, _, _, partial, _, _ = task
        if not np.array_equal(np.load(partial, mmap_mode="r")[row], _picture(task)):
            raise UserError(
                f"{partial}: image {image_id} is not what was written; is the disk broken? "
                "Delete the folder and rerun build_cache"
            )


def _picture(task: tuple) -> np.ndarray:
    """(height, width, 4): the photo and its mask as the cache holds them."""
    _, data, image_id, split, has_mask, _, view, size = task
    cv2.setNumThreads(1)
    picture = _read(data / f"{split}_images" / f"{image_id}.jpg", cv2.IMREAD_COLOR)
    picture = cv2.cvtColor(_shrink(picture, view, size), cv2.COLOR_BGR2RGB)
    mask = np.zeros(size[::-1], np.uint8)
    if has_mask:
        mask = _shrink(_read(data / f"{split}_masks" / f"{image_id}.jpg", cv2.IMREAD_GRAYSCALE), view, size)
    return np.dstack([picture, mask])


def _read(path: Path, mode: int) -> np.ndarray:
    picture = cv2.imread(str(path), mode)
    if picture is None:
        raise UserError(f"{path}: cannot be read as a picture; run the check again (rule check_data)")
    return picture


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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.cache",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cache")
    parser.add_argument(
        "--crop", type=float, nargs=4, default=[0.0, 0.4, 1.0, 1.0], help="left top right bottom, fractions"
    )
    parser.add_argument(
        "--scale", type=real(0.05, 1), default=0.5, help="cache pixels per photo pixel, 0.05 … 1"
    )
    parser.add_argument("--jobs", type=whole(1), default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    build(args.data, parquet.read_images(args.images), args.output, args.crop, args.scale, args.jobs)
    return 0


if __name__ == "__main__":
    run_main(main)
