"""Writes rendered street scenes as a data set: photos, masks, labels, camera and car models."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from carpose.core.cars import ANGLES, POSITION
from carpose.core.errors import UserError
from carpose.core.files import write_text
from carpose.geometry import camera, meshes, rotation
from carpose.kaggle.submission import write_labels, write_sample
from carpose.kaggle.tables import read_labels

from .painter import PlacedCar, render
from .shapes import Mesh, painted, write_json
from .street import Plane, sample_cars, sample_plane

MARKER = "RENDERED.txt"
MIN_VISIBLE = 0.2  # a car of which a smaller share is visible has no label
NOT_OF_INTEREST = 0.06  # share of the cars that are white in the mask and have no label


@dataclass(frozen=True)
class Scenes:
    """The settings of all scenes of a data set."""

    folder: Path
    seed: int
    size: tuple[int, int]  # width, height of the photos in pixels
    intrinsics: np.ndarray  # 3×3
    max_distance: float  # metres
    meshes: list[Mesh]
    model_types: np.ndarray  # (meshes,) the model_type of each mesh


@dataclass(frozen=True)
class Task:
    """A scene to render. split: train or test; poses: its cars, or None to sample them."""

    scenes: Scenes
    split: str
    index: int
    poses: pd.DataFrame | None = None


def scaled_camera(scale: float) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height of the photos, and intrinsics (3×3), of the data set's camera resized by `scale`."""
    width, height = (round(side * scale) for side in camera.PHOTO_SIZE)
    size = width, height
    return size, camera.crop_and_resize(camera.PHOTO_SIZE, [0, 0, 1, 1], size) @ camera.INTRINSICS


def draw_scene(task: Task) -> tuple[str, pd.DataFrame]:
    """Render and write a photo and, if needed, its mask → ImageId, labels (table of cars with model_type)."""
    scenes, split, index = task.scenes, task.split, task.index
    cv2.setNumThreads(1)
    rng = np.random.default_rng([scenes.seed, split == "test", index])
    sampled = task.poses is None
    plane, placed = _sampled(scenes, rng) if sampled else _given(scenes, rng, task.poses)
    rendering = render(rng, placed, plane, scenes.intrinsics, scenes.size)
    number = np.random.default_rng([scenes.seed, split == "test", index, 7]).integers(16**9)
    name = f"ID_{number:09x}"
    path = scenes.folder / f"{split}_images" / f"{name}.jpg"
    _write_picture(path, cv2.cvtColor(rendering.photo, cv2.COLOR_RGB2BGR), rendering.quality)

    unwanted = (rng.random(len(placed)) < NOT_OF_INTEREST) & (rendering.share > 0)
    if unwanted.any():
        pixels = np.isin(rendering.car_index, np.flatnonzero(unwanted)).astype(np.uint8) * 255
        mask = cv2.dilate(pixels, np.ones((3, 3), np.uint8))
        _write_picture(scenes.folder / f"{split}_masks" / f"{name}.jpg", mask, 90)
    # Poses from a file are all labelled, since annotators saw these cars.
    labelled = (rendering.share >= MIN_VISIBLE) & ~unwanted if sampled else ~unwanted
    matrices = np.array([car.matrix for car in placed]).reshape(-1, 3, 3)
    labels = pd.DataFrame(rotation.angles(matrices), columns=ANGLES)
    labels[POSITION] = np.array([car.position for car in placed]).reshape(-1, 3)
    labels.insert(0, "ImageId", name)
    labels.insert(1, "model_type", np.array([car.model_type for car in placed], int))
    return name, labels[labelled]


def _sampled(scenes: Scenes, rng: np.random.Generator) -> tuple[Plane, list[PlacedCar]]:
    plane = sample_plane(rng)
    xyz, matrices, _ = sample_cars(rng, plane, scenes.intrinsics, scenes.size[0], scenes.max_distance)
    mesh_indices = rng.integers(len(scenes.meshes), size=len(xyz))
    if len(xyz):  # the plane holds the centres of cars 1.5 m high; those of taller cars are higher
        rise = np.array([scenes.meshes[index].size[1] / 2 - 0.75 for index in mesh_indices])
        xyz = xyz + rise[:, None] * plane.up
    return plane, _placed(scenes, mesh_indices, xyz, matrices)


def _given(scenes: Scenes, rng: np.random.Generator, table: pd.DataFrame) -> tuple[Plane, list[PlacedCar]]:
    """The cars of a table in front of the camera and within max_distance, and the road under them."""
    plane = sample_plane(rng)
    table = table[(table.z > 1) & (table.z <= scenes.max_distance)]
    xyz, matrices = table[POSITION].to_numpy(), rotation.matrix(table[ANGLES].to_numpy())
    index_of = {model_type: index for index, model_type in enumerate(scenes.model_types)}
    mesh_indices = [index_of.get(number, number % len(scenes.meshes)) for number in table.model_type]
    if len(table) >= 3:
        plane = _fit_plane(xyz, plane)
    return plane, _placed(scenes, mesh_indices, xyz, matrices)


def _placed(
    scenes: Scenes, mesh_indices: Iterable[int], xyz: np.ndarray, matrices: np.ndarray
) -> list[PlacedCar]:
    """mesh_indices: (N,) mesh of each car; xyz: (N, 3) metres; matrices: (N, 3, 3)."""
    cars = zip(mesh_indices, xyz, matrices, strict=True)
    return [PlacedCar(scenes.model_types[index], scenes.meshes[index], *pose) for index, *pose in cars]


def _fit_plane(xyz: np.ndarray, fallback: Plane) -> Plane:
    """The road under the cars at xyz (N, 3): two rounds of least squares, the second without outliers.

    fallback: the prior of the plane's parameters.
    """
    keep = np.ones(len(xyz), bool)
    for _ in range(2):
        prior = np.array([[3, 0, 0], [0, 60, 0], [0, 0, 60.0]])
        design = np.concatenate([np.column_stack([np.ones(keep.sum()), xyz[keep][:, [0, 2]]]), prior])
        target = np.concatenate([xyz[keep, 1], prior @ [fallback.height, fallback.tilt, fallback.slope]])
        height, tilt, slope = np.linalg.lstsq(design, target, rcond=None)[0]
        plane = Plane(height, tilt, slope)
        error = np.abs(xyz[:, 1] - plane.y(xyz[:, 0], xyz[:, 2]))
        keep = error < 0.5 + 0.02 * xyz[:, 2]
        if keep.sum() < 3:
            break
    return plane


def _write_picture(path: Path, picture: np.ndarray, quality: int) -> None:
    # Not atomic: train.csv is written last, and without it all scenes are rendered again.
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise UserError(f"{path}: could not be written; is the disk full or the folder read-only?")


def real_meshes(folder: Path, table: Path) -> tuple[list[Mesh], np.ndarray]:
    """The data set's meshes and their model_types.

    folder: car_models_json; table: the CSV model_type,name. Models without a file are left out. Raises
    UserError where no file is found or one is invalid.
    """
    names = meshes.read_names(table)
    paths = {model_type: folder / f"{name}.json" for model_type, name in names.items()}
    paths = {model_type: path for model_type, path in paths.items() if path.is_file()}
    if not paths:
        raise UserError(
            f"{folder}: holds none of the car models of {table}; set car_models and car_model_ids"
        )
    return [painted(*meshes.load(path)) for path in paths.values()], np.array(list(paths))


def given_poses(path: str, counts: dict[str, int], seed: int) -> dict[str, list[pd.DataFrame]]:
    """Cars of randomly chosen images of a file like train.csv → tables of cars, one per photo, by split.

    counts: number of photos by split. Raises UserError where the file is invalid or has too few images.
    """
    table, image_ids = read_labels(path)
    if sum(counts.values()) > len(image_ids):
        text = f"{len(image_ids)} images with poses, but {sum(counts.values())} are to be rendered"
        raise UserError(f"{path}: {text}; lower train_images or test_images")
    chosen = np.random.default_rng([seed, 11]).permutation(np.unique(image_ids))
    groups = dict(tuple(table.groupby("ImageId")))
    cars = [groups.get(name, table.iloc[:0]) for name in chosen[: sum(counts.values())]]
    return {"train": cars[: counts["train"]], "test": cars[counts["train"] :]}


def make(
    scenes: Scenes, poses: dict[str, list[pd.DataFrame | None]], names: list[str], truth: Path, jobs: int
) -> None:
    """Render both splits and write all files of the competition's layout, train.csv last.

    poses: by split, of each photo its cars, or None to sample them; names: of the meshes; truth: CSV to write
    with the cars of the test photos; jobs: number of processes.
    Raises UserError where the folder holds photos or labels that were not rendered, which would be lost.
    """
    folder = scenes.folder
    _clear(folder)
    for name, mesh in zip(names, scenes.meshes, strict=True):
        write_json(folder / "car_models_json" / f"{name}.json", mesh, name)
    table = pd.DataFrame({"model_type": scenes.model_types, "name": names})
    write_text(folder / "car_model_ids.csv", table.to_csv(index=False))

    tasks = [
        Task(scenes, split, index, table)
        for split in ("train", "test")
        for index, table in enumerate(poses[split])
    ]
    cv2.setNumThreads(1)  # before the fork: with inherited threads that do not run, a process would hang
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(draw_scene, tasks, chunksize=8)
        bar = tqdm(results, "scenes", len(tasks), unit="photo", mininterval=2)
        image_ids, tables = zip(*bar, strict=True)
    labels, count = pd.concat(tables), len(poses["train"])
    train, test = image_ids[:count], image_ids[count:]
    # The outputs of the Snakemake rule are written last, so that none exists after an interruption.
    fx, fy, cx, cy = scenes.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    text = f"fx = {fx:.4f}\nfy = {fy:.4f}\ncx = {cx:.4f}\ncy = {cy:.4f}\n"
    write_text(camera.intrinsics_file(folder), text)
    write_sample(folder / "sample_submission.csv", test)
    write_labels(truth, labels, test)
    write_labels(folder / "train.csv", labels, train)


def _clear(folder: Path) -> None:
    """Delete earlier renderings and make the folders of photos and masks."""
    photos_or_labels = [folder / "train.csv", *folder.glob("*_images/*")]
    if not (folder / MARKER).exists() and any(path.exists() for path in photos_or_labels):
        text = f"holds photos or labels but no {MARKER}, so they may not be rendered; name another folder,"
        raise UserError(f"{folder}: {text} or delete it if an earlier version rendered it")
    write_text(folder / MARKER, "Rendered by carpose.synth, which replaces all photos and labels here.\n")
    for subfolder in ("train_images", "test_images", "train_masks", "test_masks"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        for old in (folder / subfolder).glob("*.jpg"):
            old.unlink()
