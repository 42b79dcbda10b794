"""Running a command in this process, and a small valid data folder to damage."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpose.core.files import run_main
from carpose.kaggle import photos
from tests.bad_input.damage import Outcome
from tests.helpers import PREDICTED, SameProcess, write_csv


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    monkeypatch.setattr(photos, "ProcessPoolExecutor", SameProcess)


@pytest.fixture
def run(monkeypatch, capfd):
    """A function that runs a command line's `main` as `python -m` does, without a new process."""

    def run_command(main, *arguments) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run_main(main)
        return Outcome(end.value.code or 0, *capfd.readouterr())

    return run_command


@pytest.fixture(scope="session")
def valid_folder(tmp_path_factory) -> Path:
    """Four training photos with three cars each, one of them with a mask, and two test photos."""
    folder = tmp_path_factory.mktemp("valid")
    x, z = np.linspace(-4, 5, 12).round(2).tolist(), np.linspace(14, 31, 12).round(2).tolist()
    cars = [f"16 0.15 {-1.5 + i / 4:.2f} -3.1 {x[i]} {1.5 + 0.16 * z[i]:.3f} {z[i]}" for i in range(12)]
    rows = [(f"ID_{photo}", " ".join(cars[3 * photo : 3 * photo + 3])) for photo in range(4)]
    write_csv(folder / "train.csv", rows)
    write_csv(folder / "sample_submission.csv", [("ID_t0", PREDICTED), ("ID_t1", PREDICTED)])
    rng = np.random.default_rng(0)
    names = [*(f"train_images/ID_{i}" for i in range(4)), "test_images/ID_t0", "test_images/ID_t1"]
    for name in [*names, "train_masks/ID_3"]:
        path = folder / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        blocks = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        blocks.resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=95)
    (folder / "camera").mkdir()
    (folder / "camera" / "camera_intrinsic.txt").write_text("fx = 110\nfy = 110\ncx = 79.5\ncy = 60\n")
    return folder


@pytest.fixture
def data(valid_folder, tmp_path) -> Path:
    """A copy of the valid folder."""
    return Path(shutil.copytree(valid_folder, tmp_path / "data"))


@pytest.fixture
def unprivileged_copy(valid_folder) -> Iterator[tuple[Path, Path]]:
    """A copy of the valid folder, and an empty one, of the user as whom the test runs: one without root's
    rights to read and write everything."""
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as parent:  # pytest's own folders are closed to other users
        folder, output = Path(parent) / "data", Path(parent) / "output"
        shutil.copytree(valid_folder, folder)
        output.mkdir()
        for path in [Path(parent), output, folder, *folder.rglob("*")]:
            os.chown(path, user, -1)
        effective = os.geteuid()
        os.seteuid(user)
        try:
            yield folder, output
        finally:
            os.seteuid(effective)
