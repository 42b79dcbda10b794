"""One photo with the cars of any table: Parquet, CSV, the competition's CSV."""

import cv2
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.drawing.layers import PREDICTED, TRUE
from carpose.kaggle.submission import write_labels, write_submission
from carpose.plots.overlay import cars_on, read_cars
from tests.helpers import POSES, count_pixels, run_module

SCORED = POSES.drop(columns="model_type").assign(score=[0.9, 0.2, 0.8])


@pytest.fixture
def tables(tmp_path):
    cars.write(tmp_path / "cars.parquet", SCORED, ["a", "b", "c"])
    cars.write_csv(tmp_path / "cars.csv", SCORED)
    write_submission(tmp_path / "submission.csv", SCORED, ["a", "b", "c"])
    write_labels(tmp_path / "train.csv", POSES, ["a", "b", "c"])
    return tmp_path


@pytest.mark.parametrize("name", ["cars.parquet", "cars.csv", "submission.csv"])
def test_every_kind_of_table_is_read(tables, name):
    table, image_ids = read_cars(tables / name)
    assert table.groupby("ImageId")["z"].apply(sorted).to_dict() == {"a": [20.0, 40.0], "b": [12.0]}
    assert table["score"].max() == pytest.approx(0.9)
    assert image_ids == (None if name == "cars.csv" else ["a", "b", "c"])


def test_labels_are_read(tables):
    table, image_ids = read_cars(tables / "train.csv", labels=True)
    assert table["model_type"].tolist() == [16, 16, 16] and image_ids == ["a", "b", "c"]


def test_photos_that_a_table_is_not_about(tables, tmp_path, capsys):
    for name in ("cars.parquet", "submission.csv"):
        table, image_ids = read_cars(tables / name)
        assert cars_on(tmp_path / "c.jpg", table, image_ids, tables / name).empty
        with pytest.raises(UserError, match=f"{name}: has no car on other, .* its photos are a"):
            cars_on(tmp_path / "other.jpg", table, image_ids, tables / name)
    assert capsys.readouterr().err == ""
    assert cars_on(tmp_path / "other.jpg", *read_cars(tables / "cars.csv"), tables / "cars.csv").empty
    assert "cars.csv: has no car on other" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, message",
    [
        ("ImageId,x,y\na,1,2\n", "columns missing from the table: pitch, yaw, roll, z"),
        ("ImageId,pitch,yaw,roll,x,y,z\na,1,2,3,4,five,6\n", "the column y must hold finite numbers"),
        (
            "ImageId,pitch,yaw,roll,x,y,z\na,1,2,3,4,,6\n",
            "1 values of y are not finite numbers, first in image a",
        ),
    ],
)
def test_tables_that_are_none(tmp_path, content, message):
    path = tmp_path / "cars.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"cars.csv: {message}"):
        read_cars(path)


def overlay(photo_folder, tables, *more, check=True):
    intrinsics = photo_folder / "camera" / "camera_intrinsic.txt"
    options = ["--photo", photo_folder / "test_images" / "a.jpg", "--intrinsics", intrinsics]
    return run_module("carpose.plots", "overlay", *options, "--output", tables / "o.png", *more, check=check)


def test_command_line(photo_folder, tables, wedge):
    mesh = ["--meshes", tables / "wedge.json"]
    pixels = {}
    for name, more in {"boxes": [], "outlines": mesh, "few": ["--threshold", 0.5]}.items():
        overlay(photo_folder, tables, "--cars", tables / "cars.csv", "--truth", tables / "train.csv", *more)
        picture = cv2.imread(str(tables / "o.png"))[..., ::-1].astype(int)
        assert count_pixels(picture, TRUE) > 100
        pixels[name] = count_pixels(picture, PREDICTED)
    assert 100 < pixels["few"] < pixels["boxes"] and 100 < pixels["outlines"] < pixels["boxes"]
    done = overlay(photo_folder, tables, check=False)
    assert done.returncode == 2 and "nothing to draw: give a table of cars" in done.stderr
