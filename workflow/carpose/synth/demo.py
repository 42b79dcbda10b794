"""The embedded demo data: rendered street scenes in exactly the competition's layout.

Out: a folder with train.csv, sample_submission.csv, photos, masks, camera and car models; and, outside of
it, the truth of the test photos. Deterministic by seed, whatever the number of processes.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from . import UserError, meshes, rotation, synth_scene
from .cars import ANGLES, POSITION
from .files import run_main, write_text
from .options import real, whole
from .synth_cars import TYPES, Mesh, painted, parametric, write_json

REAL_SIZE = (3384, 2710)
REAL_INTRINSICS = (2304.5479, 2305.8757, 1686.2379, 1354.9849)  # fx, fy, cx, cy
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
    poses: dict[str, list[pd.DataFrame]] | None  # by split: the cars of each picture, or None to sample


def image_id(split: str, index: int, seed: int) -> str:
    number = np.random.default_rng([seed, split == "test", index, 7]).integers(16**9)
    return f"ID_{number:09x}"


def scaled_camera(scale: float) -> tuple[tuple[int, int], np.ndarray]:
    """Size of the pictures and intrinsics of the real camera, resized by `scale`."""
    size = tuple(round(side * scale) for side in REAL_SIZE)
    sx, sy = size[0] / REAL_SIZE[0], size[1] / REAL_SIZE[1]
    fx, fy, cx, cy = REAL_INTRINSICS
    # A resize keeps the edges of the picture, and pixel i covers i−½ … i+½.
    return size, np.array(
        [[fx * sx, 0, (cx + 0.5) * sx - 0.5], [0, fy * sy, (cy + 0.5) * sy - 0.5], [0, 0, 1]]
    )


def draw_scene(task: tuple[Scenes, str, int]) -> tuple[str, str]:
    """Render one picture (and mask); its ImageId and prediction string."""
    scenes, split, index = task
    cv2.setNumThreads(1)
    rng = np.random.default_rng([scenes.seed, split == "test", index])
    plane = synth_scene.sample_plane(rng)
    if scenes.poses is None:
        xyz, turn, _ = synth_scene.sample_cars(
            rng, plane, scenes.intrinsics, scenes.size[0], scenes.max_distance
        )
        kinds = rng.integers(len(scenes.meshes), size=len(xyz))
        if len(xyz):  # centres lie on the plane for an average car; taller ones stand higher
            rise = np.array([scenes.meshes[kind].size[1] / 2 - 0.75 for kind in kinds])
            xyz = xyz + rise[:, None] * plane.up
    else:
        own = scenes.poses[split][index]
        own = own[(own.z > 1) & (own.z <= scenes.max_distance)]
        xyz, turn = own[POSITION].to_numpy(), rotation.matrix(own[ANGLES].to_numpy())
        known = {number: kind for kind, number in enumerate(scenes.model_types)}
        kinds = np.array([known.get(number, number % len(scenes.meshes)) for number in own.model_type], int)
        if len(own) >= 3:
            plane = _fit_plane(xyz, plane)
    photo, quality, owner, share = synth_scene.render(
        rng, scenes.meshes, kinds, xyz, turn, plane, scenes.intrinsics, scenes.size
    )
    name = image_id(split, index, scenes.seed)
    path = scenes.folder / f"{split}_images" / f"{name}.jpg"
    _write_picture(path, cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), quality)

    unwanted = (rng.random(len(xyz)) < NOT_OF_INTEREST) & (share > 0)
    if unwanted.any():
        mask = np.isin(owner, np.flatnonzero(unwanted)).astype(np.uint8) * 255
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        _write_picture(scenes.folder / f"{split}_masks" / f"{name}.jpg", mask, 90)
    # Real labels hold every car that people could see; rendered poses of a file are kept all.
    labelled = ~unwanted if scenes.poses is not None else (share >= LEAST_SEEN) & ~unwanted
    angles = rotation.angles(turn)
    words = [
        f"{scenes.model_types[kind]} " + " ".join(f"{value:.6g}" for value in (*angle, *position))
        for kind, angle, position in zip(kinds[labelled], angles[labelled], xyz[labelled], strict=True)
    ]
    return name, " ".join(words)


def _fit_plane(xyz: np.ndarray, fallback: synth_scene.Plane) -> synth_scene.Plane:
    """The road under given cars (median-like: two rounds of least squares without the far-off ones)."""
    keep = np.ones(len(xyz), bool)
    for _ in range(2):
        prior = np.array([[3, 0, 0], [0, 60, 0], [0, 0, 60.0]])
        design = np.concatenate([np.column_stack([np.ones(keep.sum()), xyz[keep][:, [0, 2]]]), prior])
        target = np.concatenate([xyz[keep, 1], prior @ [fallback.height, fallback.tilt, fallback.slope]])
        height, tilt, slope = np.linalg.lstsq(design, target, rcond=None)[0]
        plane = synth_scene.Plane(height, tilt, slope)
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
    if not table.is_file():
        raise UserError(f"{table}: the table model_type,name of the car models is missing")
    try:
        names = pd.read_csv(table)
    except (OSError, ValueError) as error:
        raise UserError(f"{table}: cannot be read as the table model_type,name ({error})") from error
    if missing := {"model_type", "name"} - set(names):
        raise UserError(f"{table}: no column {min(missing)}; it must hold model_type,name")
    known = [
        (number, folder / f"{name}.json") for number, name in zip(names.model_type, names.name, strict=True)
    ]
    known = [(number, path) for number, path in known if path.is_file()]
    if not known:
        raise UserError(f"{folder}: holds none of the car models of {table}")
    return [painted(*meshes.load(path)) for _, path in known], np.array([number for number, _ in known])


def given_poses(path: Path, counts: dict[str, int], seed: int) -> dict[str, list[pd.DataFrame]]:
    """Cars of randomly chosen images of a real train.csv, for the train and the test pictures."""
    from .kaggle import read_labels

    cars, ids = read_labels(path)
    if sum(counts.values()) > len(ids):
        raise UserError(f"{path}: {len(ids)} images, but {sum(counts.values())} are to be rendered")
    chosen = np.random.default_rng([seed, 11]).permutation(np.unique(ids))
    groups = dict(tuple(cars.groupby("ImageId")))
    none = cars.iloc[:0]
    train, test = np.split(chosen[: sum(counts.values())], [counts["train"]])
    return {
        "train": [groups.get(name, none) for name in train],
        "test": [groups.get(name, none) for name in test],
    }


def make(scenes: Scenes, counts: dict[str, int], names: list[str], truth: Path, jobs: int) -> None:
    """Render both splits and write every file of the layout; train.csv last, when all is there.

    Raises UserError where there are photos or labels that were not rendered here: they would be lost.
    """
    folder = scenes.folder
    theirs = [folder / "train.csv", *folder.glob("*_images/*")]
    if not (folder / MARKER).exists() and any(path.exists() for path in theirs):
        raise UserError(
            f"{folder}: holds photos or labels but no {MARKER}, so they may be another's; name another"
            " folder, or delete it if an earlier version rendered it"
        )
    write_text(folder / MARKER, "Rendered by carpose.synth, which replaces all photos and labels here.\n")
    for part in ("train_images", "test_images", "train_masks", "test_masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for old in (folder / part).glob("*.jpg"):
            old.unlink()
    for name, mesh in zip(names, scenes.meshes, strict=True):
        write_json(folder / "car_models_json" / f"{name}.json", mesh, name)
    table = pd.DataFrame({"model_type": scenes.model_types, "name": names})
    write_text(folder / "car_model_ids.csv", table.to_csv(index=False))

    tasks = [(scenes, split, index) for split in ("train", "test") for index in range(counts[split])]
    with ProcessPoolExecutor(jobs) as pool:
        done = list(
            tqdm(pool.map(draw_scene, tasks, chunksize=8), "scenes", len(tasks), unit="photo", mininterval=2)
        )
    labels = pd.DataFrame(done, columns=["ImageId", "PredictionString"])
    train, test = labels.iloc[: counts["train"]], labels.iloc[counts["train"] :]
    # What Snakemake waits for comes at the end: after a Ctrl-C nothing incomplete is in the way.
    fx, fy, cx, cy = scenes.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    text = f"fx = {fx:.4f}\nfy = {fy:.4f}\ncx = {cx:.4f}\ncy = {cy:.4f}\n"
    write_text(folder / "camera" / "camera_intrinsic.txt", text)
    sample = test.assign(PredictionString="0.5 0.5 0.5 0.0 0.0 0.0 1.0")
    write_text(folder / "sample_submission.csv", sample.to_csv(index=False))
    write_text(truth, test.to_csv(index=False))
    write_text(folder / "train.csv", train.to_csv(index=False))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.synth",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder to write, in the competition's layout"
    )
    parser.add_argument(
        "--truth-output", type=Path, required=True, help="truth of the test photos, outside of it"
    )
    parser.add_argument("--train-images", type=whole(1), default=400, help="number of labelled photos")
    parser.add_argument("--test-images", type=whole(1), default=200, help="number of test photos")
    parser.add_argument("--seed", type=whole(0), default=1, help="seed of everything")
    parser.add_argument(
        "--scale", type=real(0.05, 1), default=0.25, help="of the real 3384×2710 pixels, 0.05 … 1"
    )
    parser.add_argument("--max-distance", type=real(5), default=80, help="metres; no car beyond")
    parser.add_argument("--poses-from", type=Path, help="a train.csv whose poses are rendered")
    parser.add_argument("--car-models", type=Path, help="a folder of car_models_json to render")
    parser.add_argument("--car-model-ids", type=Path, help="its table model_type,name")
    parser.add_argument("--jobs", type=whole(1), default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    counts = {"train": args.train_images, "test": args.test_images}
    if args.car_models:
        meshes, numbers = real_meshes(args.car_models, args.car_model_ids or args.car_models / "ids.csv")
        names = [f"model-{number}" for number in numbers]
    else:
        names = list(TYPES)
        meshes, numbers = [parametric(name) for name in names], np.arange(len(TYPES))
    size, intrinsics = scaled_camera(args.scale)
    poses = given_poses(args.poses_from, counts, args.seed) if args.poses_from else None
    scenes = Scenes(args.output, args.seed, size, intrinsics, args.max_distance, meshes, numbers, poses)
    make(scenes, counts, names, args.truth_output, args.jobs)
    return 0


if __name__ == "__main__":
    run_main(main)
