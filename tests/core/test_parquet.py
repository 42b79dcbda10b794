"""Tables are checked when they are read: one error names file, column and image."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from tests.helpers import ENVIRONMENT

CARS = pd.DataFrame(
    {"ImageId": ["ID_a", "ID_b"]}
    | {name: [0.1, 0.2] for name in cars.POSE}
    | {"score": [0.5, 0.6], "depth_sigma": [0.1, np.nan], "above_threshold": [True, False], "fold": [0, 1]}
)


def changed(**columns):
    return CARS.assign(**columns)


@pytest.mark.parametrize(
    "table, message",
    [
        (CARS.drop(columns="x"), "columns missing from the table: x"),
        (CARS.drop(columns="score"), "no column score; predictions are needed here"),
        (changed(x=[0.1, np.nan]), "1 values of x are not finite numbers, first in image ID_b"),
        (changed(z=[np.inf, 1.0]), "1 values of z are not finite numbers, first in image ID_a"),
        (changed(score=[np.nan, np.nan]), "2 values of score are not finite numbers, first in image ID_a"),
        (changed(yaw=["left", "right"]), "the column yaw must hold finite numbers"),
        (changed(ImageId=[1, 2]), "the column ImageId must hold text"),
        (changed(ImageId=["ID_a", None]), "1 values of ImageId are not text;"),
        (changed(above_threshold=["yes", "no"]), "the column above_threshold must hold true or false"),
        (
            changed(above_threshold=[True, None]),
            "1 values of above_threshold are not true or false, first in image ID_b",
        ),
        (changed(depth_sigma=["wide", "narrow"]), "the column depth_sigma must hold numbers"),
        (changed(fold=[0, np.nan]), "1 values of fold are not finite numbers, first in image ID_b"),
    ],
)
def test_invalid_tables_of_cars_are_refused(tmp_path, table, message):
    path = tmp_path / "cars.parquet"
    table.to_parquet(path)
    with pytest.raises(UserError, match=message) as error:
        cars.read(path, scored=True)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_required_columns_are_checked_more_strictly_than_optional_ones(tmp_path):
    CARS.to_parquet(tmp_path / "cars.parquet")
    assert cars.read(tmp_path / "cars.parquet").depth_sigma.isna().sum() == 1
    with pytest.raises(
        UserError, match="1 values of depth_sigma are not finite numbers, first in image ID_b"
    ):
        cars.read(tmp_path / "cars.parquet", columns={"depth_sigma": parquet.NUMBER})


def test_files_that_are_not_tables(tmp_path):
    CARS.to_parquet(tmp_path / "cars.parquet")
    content = (tmp_path / "cars.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "folder.parquet").mkdir()
    for name, message in {
        "half": "not a readable Parquet table",
        "empty": "not a readable Parquet table",
        "folder": "columns missing|not a readable",
        "nowhere": "there is no such file",
        "cars": "columns missing from the table: split, excluded, phash",
    }.items():
        with pytest.raises(UserError, match=f"{name}.parquet: .*{message}" if name != "folder" else message):
            parquet.read_images(tmp_path / f"{name}.parquet")


def test_every_photo_has_one_row(tmp_path):
    path = tmp_path / "folds.parquet"
    folds = pd.DataFrame({"ImageId": ["ID_a", "ID_b", "ID_a"], "fold": [0, 1, 1]})
    for rows, message in ((folds, "image ID_a occurs twice"), (folds.iloc[:0], "holds no image")):
        rows.to_parquet(path)
        with pytest.raises(UserError, match=message):
            parquet.read_folds(path)
    folds.iloc[:2].to_parquet(path)
    assert list(parquet.read_folds(path).fold) == [0, 1]
    folds.iloc[:2].assign(group=["ID_a", None]).to_parquet(path)
    with pytest.raises(UserError, match="1 values of group are not text, first in image ID_b"):
        parquet.read_folds(path)


def test_valid_tables_are_read_unchanged(tmp_path):
    for rows in (
        CARS,
        CARS.iloc[:0],
        CARS.assign(model_type=3),
        CARS.drop(columns=["above_threshold", "depth_sigma"]),
    ):
        cars.write(tmp_path / "cars.parquet", rows)
        read = cars.read(tmp_path / "cars.parquet", scored=True, columns={"fold": parquet.NUMBER})
        pd.testing.assert_frame_equal(read, rows.reset_index(drop=True), check_dtype=len(rows) > 0)


def test_every_changed_byte_is_noticed(tmp_path):
    """Of the rows and of the metadata; a file without a checksum, by another program, is read as it is."""
    file, damaged = tmp_path / "table.parquet", tmp_path / "damaged.parquet"
    table = pd.DataFrame({"ImageId": ["ID_a", "ID_b"], "fold": [0, 1]})
    parquet.write(file, table, folds=[0, 1])
    pd.testing.assert_frame_equal(parquet.load(file)[0], table)
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), 5):
        data[place] ^= 4
        damaged.write_bytes(data)
        data[place] ^= 4
        with pytest.raises(
            UserError, match=r"damaged\.parquet: not a readable Parquet table .*; delete it, and"
        ):
            parquet.load(damaged)
    table.to_parquet(damaged)
    pd.testing.assert_frame_equal(parquet.load(damaged)[0], table)


def test_no_thread_outlives_the_reading_of_a_table(tmp_path):
    """pyarrow's threads abort a program that ends at the same time: status −6 in place of its own."""
    program = (
        "import os, sys\nimport pandas as pd\nfrom carpose.core import parquet\n"
        "table = pd.DataFrame({'ImageId': ['a', 'b'] * 50_000, 'x': 1.5, 'y': 2})\n"
        "threads = os.listdir('/proc/self/task')\n"
        "parquet.write(sys.argv[1], table)\n"
        "read, metadata = parquet.load(sys.argv[1])\n"
        "assert read.equals(table) and parquet.about(sys.argv[1]) == metadata\n"
        "assert os.listdir('/proc/self/task') == threads\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
