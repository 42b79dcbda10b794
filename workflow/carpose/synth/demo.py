"""Rendered street scenes as a data set: photos, masks, labels, camera and car models, written to a folder."""

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
LEAST_SEEN = 0.2  # a car with less than this share in sight has no label
NOT_OF_INTEREST = 0.06  # share of cars that are white in the mask and absent from the labels


@dataclass(frozen=True)
class Scenes:
    """What all pictures of a data set share."""

    folder: Path
    seed: int
    size: tuple[int, int]
    intrinsics: np.ndarray
    max_distance: float
    meshes: list[Mesh]
    model_types: np.ndarray  # (meshes,) the data set's number of each mesh


@dataclass(frozen=True)
class Task:
    """A picture to render. poses: the cars in it, or None to sample them."""

    scenes: Scenes
    split: str
    index: int
    poses: pd.DataFrame | None = None


def scaled_camera(scale: float) -> tuple[tuple[int, int], np.ndarray]:
    """Size of the pictures and intrinsics of the data set's camera, resized by `scale`."""
    size = tuple(round(side * scale) for side in camera.PHOTO_SIZE)
    return size, camera.crop_and_resize(camera.PHOTO_SIZE, [0, 0, 1, 1], size) @ camera.INTRINSICS


def draw_scene(task: Task) -> tuple[str, pd.DataFrame]:
    """Render one picture (and mask); its ImageId and its labels."""
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
        mask = np.isin(rendering.owner, np.flatnonzero(unwanted)).astype(np.uint8) * 255
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        _write_picture(scenes.folder / f"{split}_masks" / f"{name}.jpg", mask, 90)
    # Real labels hold every car that people could see; rendered poses of a file are kept all.
    labelled = (rendering.share >= LEAST_SEEN) & ~unwanted if sampled else ~unwanted
    matrices = np.array([car.matrix for car in placed]).reshape(-1, 3, 3)
    labels = pd.DataFrame(rotation.angles(matrices), columns=ANGLES)
    labels[POSITION] = np.array([car.position for car in placed]).reshape(-1, 3)
    labels.insert(0, "ImageId", name)
    labels.insert(1, "model_type", np.array([car.model_type for car in placed], int))
    return name, labels[labelled]


def _sampled(scenes: Scenes, rng: np.random.Generator) -> tuple[Plane, list[PlacedCar]]:
    plane = sample_plane(rng)
    xyz, matrices, _ = sample_cars(rng, plane, scenes.intrinsics, scenes.size[0], scenes.max_distance)
    kinds = rng.integers(len(scenes.meshes), size=len(xyz))
    if len(xyz):  # centres lie on the plane for an average car; taller ones stand higher
        rise = np.array([scenes.meshes[kind].size[1] / 2 - 0.75 for kind in kinds])
        xyz = xyz + rise[:, None] * plane.up
    return plane, _placed(scenes, kinds, xyz, matrices)


def _given(scenes: Scenes, rng: np.random.Generator, table: pd.DataFrame) -> tuple[Plane, list[PlacedCar]]:
    """Cars of a table, as far as they are before the camera and not too far away."""
    plane = sample_plane(rng)
    table = table[(table.z > 1) & (table.z <= scenes.max_distance)]
    xyz, matrices = table[POSITION].to_numpy(), rotation.matrix(table[ANGLES].to_numpy())
    kind_of = {number: kind for kind, number in enumerate(scenes.model_types)}
    kinds = [kind_of.get(number, number % len(scenes.meshes)) for number in table.model_type]
    if len(table) >= 3:
        plane = _fit_plane(xyz, plane)
    return plane, _placed(scenes, kinds, xyz, matrices)


def _placed(scenes: Scenes, kinds: np.ndarray, xyz: np.ndarray, matrices: np.ndarray) -> list[PlacedCar]:
    """kinds: (N,) which mesh each car is; xyz: (N, 3) metres; matrices: (N, 3, 3)."""
    cars = zip(kinds, xyz, matrices, strict=True)
    return [PlacedCar(scenes.model_types[kind], scenes.meshes[kind], *pose) for kind, *pose in cars]


def _fit_plane(xyz: np.ndarray, fallback: Plane) -> Plane:
    """The road under given cars (median-like: two rounds of least squares without the far-off ones)."""
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
    # Written in place: train.csv comes last, and without it everything is rendered anew.
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise UserError(f"{path}: could not be written")


def real_meshes(folder: Path, table: Path) -> tuple[list[Mesh], np.ndarray]:
    """The data set's meshes and their numbers, by the table model_type,name."""
    names = meshes.read_names(table)
    paths = {number: folder / f"{name}.json" for number, name in names.items()}
    paths = {number: path for number, path in paths.items() if path.is_file()}
    if not paths:
        raise UserError(f"{folder}: holds none of the car models of {table}")
    return [painted(*meshes.load(path)) for path in paths.values()], np.array(list(paths))


def given_poses(path: str, counts: dict[str, int], seed: int) -> dict[str, list[pd.DataFrame]]:
    """Cars of randomly chosen images for the train and the test pictures.

    path: a file like train.csv; counts: pictures by split. Raises UserError where there are too few images.
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
    """Render both splits and write every file of the layout; train.csv last, when all is there.

    poses: by split of each picture, None to sample them; names: of the meshes; truth: CSV of the test
    pictures' cars.
    Raises UserError where there are photos or labels that were not rendered here: they would be lost.
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
    with ProcessPoolExecutor(jobs) as pool:
        drawn = pool.map(draw_scene, tasks, chunksize=8)
        names, labels = zip(*tqdm(drawn, "scenes", len(tasks), unit="photo", mininterval=2), strict=True)
    labels, train, test = pd.concat(labels), names[: len(poses["train"])], names[len(poses["train"]) :]
    # What Snakemake waits for comes at the end: after a Ctrl-C nothing incomplete is in the way.
    fx, fy, cx, cy = scenes.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    text = f"fx = {fx:.4f}\nfy = {fy:.4f}\ncx = {cx:.4f}\ncy = {cy:.4f}\n"
    write_text(camera.intrinsics_file(folder), text)
    write_sample(folder / "sample_submission.csv", test)
    write_labels(truth, labels, test)
    write_labels(folder / "train.csv", labels, train)


def _clear(folder: Path) -> None:
    """Empty the folder of earlier renderings, and make its parts."""
    photos_or_labels = [folder / "train.csv", *folder.glob("*_images/*")]
    if not (folder / MARKER).exists() and any(path.exists() for path in photos_or_labels):
        text = f"holds photos or labels but no {MARKER}, so they may be another's; name another folder,"
        raise UserError(f"{folder}: {text} or delete it if an earlier version rendered it")
    write_text(folder / MARKER, "Rendered by carpose.synth, which replaces all photos and labels here.\n")
    for part in ("train_images", "test_images", "train_masks", "test_masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for old in (folder / part).glob("*.jpg"):
            old.unlink()
