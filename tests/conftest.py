"""Shared fixtures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of public real data beside the repository; tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"public real data not found in {folder}")
    return folder


def run_module(*arguments, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """Run `python -m …` with the library on the path."""
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}  # the same on every machine
    kwargs = {"capture_output": True, "text": True, "env": environment} | kwargs
    done = subprocess.run(command, **kwargs)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A small demo data set, checked, folded and cached."""
    folder = tmp_path_factory.mktemp("prepared")
    run_module(
        *("carpose.synth", "--output", folder / "data", "--truth-output", folder / "truth.csv"),
        *("--train-images", 12, "--test-images", 4, "--scale", 0.1, "--max-distance", 40, "--jobs", 2),
    )
    tables = ("--images", folder / "images.parquet", "--labels", folder / "labels.parquet")
    run_module("carpose.kaggle", "check", folder / "data", "--findings", folder / "findings.csv", *tables)
    run_module("carpose.folds", *tables, "--folds", 2, "--output", folder / "folds.parquet")
    run_module(
        *("carpose.cache", "--data", folder / "data", "--images", folder / "images.parquet"),
        *("--output", folder / "cache", "--scale", 1.0, "--jobs", 2),
    )
    return folder
