"""Helpers of several tests: running commands and workflows, made-up cars, predictions of them.

Fixtures are in conftest.py, slow literal versions of what carpose computes in reference.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from carpose.core import cars
from carpose.geometry import rotation

REPOSITORY = Path(__file__).resolve().parents[1]
ROAD = 1.463, 0.0402, 0.1597  # y = a + b·x + c·z in metres: fitted to the real labels' cars
# One car as the competition writes it, in train.csv and in a submission.
CAR = "16 0.15 -1.5 -3.1 2.0 4.0 16.0"
PREDICTED = "0.15 -1.5 -3.1 2.0 4.0 16.0 0.9"
# Three cars on two photos, for pictures.
POSES = pd.DataFrame(
    [
        ["a", 16, 0.155, 0.3, -3.10, -3.0, 5.0, 20.0],
        ["a", 16, 0.155, -2.9, 3.13, 4.0, 8.0, 40.0],
        ["b", 16, 0.155, 1.6, -3.10, 0.0, 3.5, 12.0],
    ],
    columns=["ImageId", "model_type", *cars.POSE],
)
# A car model's file: a wedge, longer than wide, low at the front (z > 0). In the file y points down.
WEDGE = {
    "vertices": [[-1, 0.5, -2], [1, 0.5, -2], [-1, 0.5, 2], [1, 0.5, 2], [-1, -0.8, -2], [1, -0.8, -2]],
    "faces": [[1, 2, 3], [2, 4, 3], [1, 2, 5], [2, 6, 5], [3, 4, 5], [4, 6, 5], [1, 3, 5], [2, 4, 6]],
}
# The same on every machine and in every folder: the library on the path, no GPU.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)]),
    "PYTHONSAFEPATH": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
CI = ["--configfile", str(REPOSITORY / "configs" / "ci.yaml")]
TINY = (
    "--backbone dla34 --width 0.125 --neck-channels 16 --input-width 192 --input-height 64"
    " --batch-size 2 --epochs 3"
)


# Commands


class SameProcess:
    """A pool without processes, which take longer to start than most tests."""

    def __init__(self, jobs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, *arguments, chunksize=1):
        return map(function, *arguments)


def run_module(*arguments, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """Run `python -m …` to its end."""
    command = [sys.executable, "-m", *map(str, arguments)]
    kwargs = {"capture_output": True, "text": True, "env": ENVIRONMENT} | kwargs
    done = subprocess.run(command, **kwargs)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
    return done


def run_background(command, **kwargs) -> subprocess.Popen:
    """Start `python -m …`; its output is a pipe."""
    command = [sys.executable, "-m", *map(str, command)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, **kwargs)


def options(prepared: Path, folder: Path, *more) -> list:
    """A tiny training on the fixture `prepared`, which writes to `folder`."""
    data = ("--cache", prepared / "cache", "--images", prepared / "images.parquet")
    tables = ("--labels", prepared / "labels.parquet", "--folds", prepared / "folds.parquet", "--fold", 0)
    outputs = ("--output", folder / "model.pt", "--history", folder / "history.csv")
    state = ("--state", folder / "state.pt")
    return ["carpose.train", *data, *tables, *outputs, *state, *TINY.split(), *more]


def snakemake(folder: Path, *arguments: str, workflow: str = "Snakefile", check: bool = True) -> str:
    """Run snakemake in `folder` on one of the repository's workflows; the text it printed."""
    command = [sys.executable, "-P", "-m", "snakemake", "-s", str(REPOSITORY / workflow), "--cores", "2"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0 or not check, text[-6000:]
    return text


def jobs(text: str) -> dict[str, str]:
    """Job counts of a dry run, without the target rules."""
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)^total", text, re.S | re.M)
    return dict(re.findall(r"^(\w+) +(\d+)$", table[1], re.M)) if table else {}


class Bomb:
    """Unpickling it makes the file `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Documentation


def code_blocks(page: str) -> dict[str, str]:
    """The code of a page of docs/ by the file it belongs to, from blocks that begin with ```python FILE."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```python (\S+)\n(.*?)^```$", text, re.M | re.S))


# Cars


def scene(images: int, rng: np.random.Generator, per_image: int = 8) -> pd.DataFrame:
    """True cars on a road, roll on both sides of the seam."""
    n = images * per_image
    z = np.exp(rng.uniform(np.log(8), np.log(90), n))
    x = rng.uniform(-0.5, 0.5, n) * z
    angles = np.column_stack(
        [rng.normal(0.15, 0.02, n), rng.uniform(-np.pi, np.pi, n), rng.normal(np.pi, 0.02, n)]
    )
    table = pd.DataFrame(rotation.wrap(angles), columns=cars.ANGLES)
    table.insert(0, "ImageId", np.repeat([f"ID_{i:05d}" for i in range(images)], per_image))
    return table.assign(x=x, y=1.46 + 0.16 * z, z=z)


def folds_of(truth: pd.DataFrame, count: int) -> pd.DataFrame:
    """Its images dealt out to `count` folds."""
    images = truth["ImageId"].unique()
    return pd.DataFrame({"ImageId": images, "fold": np.arange(len(images)) % count})


def noisy_view(
    truth: pd.DataFrame,
    rng: np.random.Generator,
    missed: float = 0.2,
    depth_noise: float = 0.05,
    angle_noise: float = 0.05,
    false_cars: float = 2,
    depth_bias: float = 0.0,
    aside: float = 0.0,
    score_noise: float = 0.15,
) -> pd.DataFrame:
    """One model's view of the truth.

    missed: share of the cars not seen; depth_noise, depth_bias: of log-depth, along the ray; angle_noise:
    radians, each angle, roll on both sides of the seam; false_cars: shifted copies per image; aside:
    noise of the ray, radians. Scores are N(.7) for true and N(.35) for false cars, clipped.
    `source` is the row of the true car, −1 for a false one.
    """
    kept = rng.random(len(truth)) >= missed
    seen = truth[kept]
    images = truth["ImageId"].drop_duplicates()
    wrong = truth.set_index("ImageId").loc[np.repeat(images.to_numpy(), int(false_cars))].reset_index()
    wrong = wrong.groupby("ImageId", sort=False).sample(int(false_cars), replace=True, random_state=rng)
    shift = rng.uniform(0.15, 0.4, len(wrong)) * rng.choice([-1, 1], len(wrong))
    wrong = wrong.assign(
        x=wrong["x"] + shift * wrong["z"], z=wrong["z"] * (1 + rng.uniform(-0.3, 0.3, len(wrong)))
    )
    table = pd.concat([seen, wrong], ignore_index=True)[["ImageId", *cars.POSE]]
    source = np.append(np.flatnonzero(kept), np.full(len(wrong), -1))
    table[cars.ANGLES] += rng.normal(0, angle_noise, (len(table), 3))
    table[cars.ANGLES] = rotation.wrap(table[cars.ANGLES].to_numpy())
    position = table[cars.POSITION].to_numpy()
    position = position + aside * table[["z"]].to_numpy() * rng.normal(size=position.shape)
    table[cars.POSITION] = position * np.exp(rng.normal(depth_bias, depth_noise, (len(table), 1)))
    mean = np.where(np.arange(len(table)) < len(seen), 0.7, 0.35)
    return table.assign(score=np.clip(rng.normal(mean, score_noise), 0.01, 1), source=source)


def street_labels(images: int = 40, seed: int = 0) -> pd.DataFrame:
    """Labels made up by the data set's conventions, without carpose's own rotations.

    A car's axes are side, up and front. Up is the normal of the road (which the camera sees inclined, y
    downwards) but for a few hundredths of a radian, the front is turned to any side; the labels are the
    angles of R = Rz(roll)·Rx(pitch)·Ry(yaw) as SciPy finds them. So rolls lie near ±π on both sides. One to
    44 cars per image, one beyond 200 m, several model types.
    """
    rng = np.random.default_rng(seed)
    counts = np.append([1, 44], rng.integers(1, 25, images - 2))
    n = counts.sum()
    z = np.exp(rng.normal(np.log(45), 0.6, n)).clip(6, 190)
    z[-1] = 260.0
    x = rng.uniform(-0.6, 0.6, n) * z
    a, b, c = ROAD
    up = np.array([b, -1, c]) + rng.normal(0, 0.03, (n, 3))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    heading = rng.uniform(-np.pi, np.pi, n)
    heading[:2] = np.pi - 0.01, -np.pi + 0.01
    front = np.column_stack([np.sin(heading), np.zeros(n), np.cos(heading)])
    front -= (front * up).sum(axis=1, keepdims=True) * up
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    axes = np.stack([np.cross(up, front), up, front], axis=2)
    yaw, pitch, roll = Rotation.from_matrix(axes).as_euler("yxz").T
    table = pd.DataFrame({"pitch": pitch, "yaw": yaw, "roll": roll})
    table.insert(0, "ImageId", np.repeat([f"ID_{i:09x}" for i in range(images)], counts))
    table.insert(1, "model_type", rng.choice([2, 9, 16, 46], n))
    return table.assign(x=x, y=a + b * x + c * z + rng.normal(0, 0.1, n), z=z)


def write_labels(path: Path, table: pd.DataFrame) -> None:
    """A file like train.csv, written by the competition's description alone."""
    lines = ["ImageId,PredictionString"]
    for image_id, rows in table.groupby("ImageId", sort=False):
        words = rows[["model_type", *cars.POSE]].astype(object).to_numpy().ravel()
        lines.append(f"{image_id},{' '.join(map(str, words))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    """A file like train.csv or a submission of these rows."""
    path.write_text(
        "\n".join(["ImageId,PredictionString", *(",".join(row) for row in rows)]) + "\n", encoding="utf-8"
    )
    return path


# Pictures


def rendered(figure, folder: Path) -> np.ndarray:
    """The pixels of a figure of matplotlib, (H, W, 3) RGB."""
    import cv2

    figure.savefig(folder / "figure.png")
    return cv2.imread(str(folder / "figure.png"))[..., ::-1].astype(int)


def count_pixels(picture: np.ndarray, colour: str) -> int:
    """How many pixels have very nearly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - rgb).max(axis=-1) < 12).sum())
