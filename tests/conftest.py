"""Shared fixtures."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from carpose.geometry import meshes
from tests.helpers import REPOSITORY, WEDGE, run_module, street_labels, write_labels


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of public real data beside the repository; tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"public real data not found in {folder}")
    return folder


@pytest.fixture
def wedge(tmp_path) -> meshes.Mesh:
    """The mesh of WEDGE."""
    path = tmp_path / "wedge.json"
    path.write_text(json.dumps(WEDGE))
    return meshes.load(path)


@pytest.fixture
def photo_folder(tmp_path) -> Path:
    """A data folder of three grey test photos, one of them without cars."""
    folder = tmp_path / "data"
    (folder / "test_images").mkdir(parents=True)
    (folder / "camera").mkdir()
    for image_id in "abc":
        cv2.imwrite(str(folder / "test_images" / f"{image_id}.jpg"), np.full((339, 423, 3), 90, np.uint8))
    text = "fx = 288\nfy = 288.2\ncx = 210.8\ncy = 169.4\n"
    (folder / "camera" / "camera_intrinsic.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def labels_csv(tmp_path_factory) -> Path:
    """A file like train.csv of made-up labels that follow the data set's conventions."""
    path = tmp_path_factory.mktemp("labels") / "train.csv"
    write_labels(path, street_labels())
    return path


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
    run_module("carpose.data", "folds", *tables, "--count", 2, "--output", folder / "folds.parquet")
    run_module(
        *("carpose.data", "cache", "--data", folder / "data", "--images", folder / "images.parquet"),
        *("--output", folder / "cache", "--scale", 1.0, "--jobs", 2),
    )
    return folder
