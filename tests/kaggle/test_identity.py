"""The fingerprint of a data folder: it depends on the content only, and is fast."""

import os
import subprocess
import sys
import time

from carpose.kaggle.identity import data_identity
from tests.helpers import ENVIRONMENT


def folder(path, photos=3):
    for name in ("train_images", "test_images", "train_masks", "camera"):
        (path / name).mkdir(parents=True)
    for number in range(photos):
        (path / "train_images" / f"ID_{number}.jpg").write_bytes(b"x" * number)
    (path / "train.csv").write_text("ImageId,PredictionString\n")
    (path / "camera" / "camera_intrinsic.txt").write_text("fx = 1\n")
    return path


def test_it_depends_on_the_content_only(tmp_path):
    first, second = folder(tmp_path / "one"), folder(tmp_path / "two")
    os.utime(second / "train.csv", (1, 1))
    (second / "notes.txt").write_text("not of the competition")
    assert data_identity(first) == data_identity(second) and len(data_identity(first)) == 16
    identities = {data_identity(first)}
    for change in (
        lambda: (first / "train_images" / "ID_1.jpg").write_bytes(b"another size"),
        lambda: (first / "train_images" / "ID_1.jpg").rename(first / "train_images" / "ID_7.jpg"),
        lambda: (first / "train_images" / "ID_7.jpg").rename(first / "test_images" / "ID_7.jpg"),
        lambda: (first / "train.csv").write_text("ImageId,predictionString\n"),
        lambda: (first / "sample_submission.csv").write_text(""),
        lambda: (first / "train_masks" / "ID_0.jpg").write_bytes(b""),
    ):
        change()
        identities.add(data_identity(first))
    assert len(identities) == 6, "an empty table counts as a missing one; all other changes count"


def test_thousands_of_photos_are_fast_and_need_no_pandas(tmp_path):
    path = folder(tmp_path / "data", photos=12_500)
    start = time.process_time()
    data_identity(path)
    assert time.process_time() - start < 0.5
    code = "import sys, carpose.kaggle.identity; sys.exit(bool({'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0
