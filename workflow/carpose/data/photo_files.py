"""Photos from files that no cache holds: found, checked, and as `predict_view` wants them."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.geometry import camera
from carpose.kaggle.photos import inspect_picture, size_text

from . import augment
from .samples import NominalView
from .training_camera import TrainingCamera

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
COARSEST = 3.0  # network pixels per photo pixel
LEAST_SHOWN = 0.25  # share of a network's input that a photo should fill
GRID = 32  # places per side at which that is counted


def find_photos(paths: Iterable[Path]) -> dict[str, Path]:
    """Files, and all photos that lie directly in folders, by ImageId, the name without its suffix.

    Raises UserError where a path is not there, a folder has no photo, or two photos have one ImageId.
    """
    photos: dict[str, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            # What macOS leaves beside a photo begins with a dot.
            entries = (p for p in path.iterdir() if not p.name.startswith("."))
            # Also links to nothing and what is no file: `check_photos` names them.
            files = sorted(p for p in entries if p.suffix.lower() in SUFFIXES)
            if not files:
                raise UserError(f"{path}: there is no photo in this folder ({', '.join(SUFFIXES)})")
        elif not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        for file in files:
            earlier = photos.setdefault(file.stem, file)
            if os.path.realpath(earlier) != os.path.realpath(file):
                raise UserError(f"{earlier} and {file}: both would be image {file.stem}; rename one of them")
    return photos


def check_photos(photos: dict[str, Path], label: str | None = None) -> tuple[int, int]:
    """Decode every photo once; their width and height in pixels.

    label: name of a progress bar. Raises UserError where one cannot be read or is damaged, or where their
    sizes differ. A warning where EXIF asks to turn one: pixels are taken as they are stored.
    """
    bar = tqdm(photos.values(), desc=label, disable=label is None, unit="photo", mininterval=2)
    pictures = {path: inspect_picture(path)[0] for path in bar}
    if broken := [(path, picture.problem) for path, picture in pictures.items() if picture.problem]:
        path, problem = broken[0]
        count = f" (and {len(broken) - 1} more photos)" if len(broken) > 1 else ""
        raise UserError(f"{path}: {problem}{count}; bring the file again or leave it out")
    first, size = next((path, picture[:2]) for path, picture in pictures.items())
    if odd := [path for path, picture in pictures.items() if picture[:2] != size]:
        text = f"is {size_text(pictures[odd[0]][:2])} pixels, {first} is {size_text(size)}"
        raise UserError(f"{odd[0]}: {text}; one file of intrinsics cannot serve both, predict them apart")
    if rotated := [(path, picture.remark) for path, picture in pictures.items() if picture.remark]:
        path, remark = rotated[0]
        count = f" (and {len(rotated) - 1} more photos)" if len(rotated) > 1 else ""
        advice = "its pixels are taken as they are stored, and the intrinsics must be those of these pixels"
        print(f"warning: {path}: {remark}{count}; {advice}", file=sys.stderr)
    return size


def check_camera(
    size: tuple[int, int], intrinsics: np.ndarray, training: TrainingCamera, train_config: TrainConfig
) -> None:
    """Whether photos of this size (width, height) and camera (3×3) can be predicted.

    Raises UserError where they show the network nothing, or are far too small for it; a warning where they
    fill little of its input, or where the intrinsics seem to be of another size.
    """
    view = NominalView(training, train_config)
    homography = view.matrix @ training.intrinsics @ np.linalg.inv(intrinsics)
    width, height = view.size
    x, y = np.meshgrid(*((np.arange(GRID) + 0.5) / GRID * side - 0.5 for side in view.size))
    places = np.column_stack([x.ravel(), y.ravel(), np.ones(x.size)])
    on_photo = camera.project(np.linalg.inv(homography), places)
    shown = ((on_photo > -0.5) & (on_photo < np.array(size) - 0.5)).all(axis=1).mean()
    photo, looks = (
        f"photos of {size_text(size)} pixels",
        f"the network's input of {size_text((width, height))}",
    )
    advice = "are the intrinsics of this camera, at this size?"
    if not shown:
        raise UserError(f"{photo} with these intrinsics show nothing of {looks}; {advice}")
    coarse = camera.focal(view.matrix @ training.intrinsics) / camera.focal(intrinsics)
    if coarse > COARSEST:
        raise UserError(
            f"{photo} are too small for {looks}: {coarse:.1f} of its pixels for one of the photo's;"
            f" give larger photos, or a network with a smaller input; {advice}"
        )
    principal = intrinsics[:2, 2]
    if ((principal < 0) | (principal > size)).any():
        text = f"the principal point ({principal[0]:.0f}, {principal[1]:.0f}) lies outside {photo}"
        print(f"warning: {text}; {advice}", file=sys.stderr)
    if shown < LEAST_SHOWN:
        print(f"warning: {photo} fill {shown:.0%} of {looks}; {advice}", file=sys.stderr)


class LoadedPhotos(torch.utils.data.Dataset):
    """A few photos in memory, for prediction: (height, width, 4) uint8, as of carpose.data.samples.Photos."""

    def __init__(
        self,
        cached: Sequence[np.ndarray],
        image_ids: list[str],
        train_config: TrainConfig,
        training: TrainingCamera,
        scene: np.ndarray,
    ):
        """cached: of TrainingCamera.cached; scene: 3×3 rotation of the camera frame, as of Photos."""
        cv2.setNumThreads(0)
        self.cached, self.image_ids, self.train_config, self.scene = cached, image_ids, train_config, scene
        self.view = NominalView(training, train_config)
        placement = augment.Placement(scene, self.view.matrix)
        self.homography = placement.homography(training.intrinsics) @ self.view.from_cache

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return augment.warp(self.cached[index], self.homography, self.view.size)
