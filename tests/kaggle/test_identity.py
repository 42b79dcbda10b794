"""Which data a folder holds: known at once, whatever the folder is called and however old its files are."""

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


def test_it_is_the_content_that_counts(tmp_path):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    os.utime(two / "train.csv", (1, 1))
    (two / "notes.txt").write_text("not of the competition")
    assert data_identity(one) == data_identity(two) and len(data_identity(one)) == 16
    seen = {data_identity(one)}
    for change in (
        lambda: (one / "train_images" / "ID_1.jpg").write_bytes(b"another size"),
        lambda: (one / "train_images" / "ID_1.jpg").rename(one / "train_images" / "ID_7.jpg"),
        lambda: (one / "train_images" / "ID_7.jpg").rename(one / "test_images" / "ID_7.jpg"),
        lambda: (one / "train.csv").write_text("ImageId,predictionString\n"),
        lambda: (one / "sample_submission.csv").write_text(""),
        lambda: (one / "train_masks" / "ID_0.jpg").write_bytes(b""),
    ):
        change()
        seen.add(data_identity(one))
    assert len(seen) == 6, "an empty file is as good as none, all else is another data set"


def test_thousands_of_photos_take_no_time_and_no_pandas(tmp_path):
    path = folder(tmp_path / "data", photos=12_500)
    start = time.process_time()
    data_identity(path)
    assert time.process_time() - start < 0.5
    code = "import sys, carpose.kaggle.identity; sys.exit(bool({'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0
