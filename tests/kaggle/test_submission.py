"""Submissions: written files can be read and are valid, and invalid cars are not written."""

import re

import numpy as np
import pandas as pd
import pytest

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.kaggle.submission import validate, write_labels, write_submission
from carpose.kaggle.tables import PREDICTION, read_labels, read_sample, read_submission
from tests.helpers import PREDICTED, run_module, street_labels, write_csv


def random_cars(count, images=5, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.uniform(-3, 3, (count, 6)), columns=cars.POSE)
    table["z"] += 30
    table.insert(0, "ImageId", [f"ID_{i}" for i in rng.integers(0, images, count)])
    return table.assign(score=rng.uniform(0, 1, count))


def test_a_written_submission_reads_back(tmp_path):
    table = random_cars(40).astype(dict.fromkeys([*cars.POSE, "score"], np.float32))
    images = ["ID_4", "ID_none", *[f"ID_{i}" for i in range(4)]]
    write_submission(tmp_path / "s.csv", table, images)
    back, image_ids = read_submission(tmp_path / "s.csv")
    assert image_ids == images
    assert "ID_none,\n" in (tmp_path / "s.csv").read_text()
    assert back.groupby("ImageId")["score"].apply(lambda score: score.is_monotonic_decreasing).all()
    columns = ["ImageId", *cars.POSE, "score"]
    expected = table.sort_values(["ImageId", "score"])[columns].reset_index(drop=True)
    back = back.astype(expected.dtypes).sort_values(["ImageId", "score"])[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, expected, rtol=3e-7)


def test_angles_are_not_wrapped(tmp_path):
    """The leaderboard's metric depends on their range."""
    table = random_cars(3).assign(yaw=[3 * np.pi / 2, np.pi, -7.0])
    write_submission(tmp_path / "s.csv", table, table["ImageId"].unique())
    back, _ = read_submission(tmp_path / "s.csv")
    np.testing.assert_allclose(np.sort(back["yaw"]), np.sort(table["yaw"]), atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 1.2}, "score outside"),
        ({"x": np.inf}, "not finite"),
        ({"ImageId": "other"}, "image other is not in the list"),
    ],
)
def test_invalid_cars_are_not_written(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        write_submission(tmp_path / "s.csv", random_cars(3).assign(**change), [f"ID_{i}" for i in range(5)])
    assert not (tmp_path / "s.csv").exists()


def test_a_submission_without_cars(tmp_path):
    write_submission(tmp_path / "s.csv", cars.empty(PREDICTION), ["a", "b"])
    assert (tmp_path / "s.csv").read_text() == "ImageId,PredictionString\na,\nb,\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", PREDICTED), ("b", "")], None),
        (
            [("b", ""), ("a", PREDICTED)],
            "line 2, image b: the order differs from here on: the sample has a here",
        ),
        ([("a", PREDICTED)], "image b: the image is missing"),
        ([("a", ""), ("b", ""), ("c", "")], "line 4, image c: the image is not in the sample"),
        ([("a", ""), ("b", ""), ("b", "")], "line 4, image b: .*twice"),
        ([("a", PREDICTED[:-3] + "1.1"), ("b", "")], r"line 2, image a: a score is outside \[0, 1\]"),
        ([("a", PREDICTED), ("b", PREDICTED.replace("-3.1", "3.2"))], "line 3, image b: an angle is outside"),
        ([("a", PREDICTED.replace("16.0", "-16")), ("b", "")], "line 2, image a: .*in front of the camera"),
        ([("a", PREDICTED.replace("16.0", "inf")), ("b", "")], "line 2, image a: token 6 .*not finite"),
        ([("a", PREDICTED + " 1"), ("b", "")], "line 2, image a: 8 numbers"),
    ],
)
def test_validation(tmp_path, rows, message):
    findings, _ = validate(write_csv(tmp_path / "s.csv", rows), ["a", "b"])
    if message is None:
        assert not findings
    else:
        assert len(findings) == 1
        assert re.search(message, str(findings[0]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("b", ""), ("a", PREDICTED)],
            "line 2, image b: 2 rows in another order than the sample's, first here",
        ),
        (
            [("a", PREDICTED[:-3] + "1.1"), ("b", "")],
            r"line 2, image a: 1 car, first here: a score is outside",
        ),
        (
            [("a", ""), ("b", PREDICTED.replace("-3.1", "3.2"))],
            "line 3, image b: 1 car, first here: an angle",
        ),
    ],
)
def test_what_the_competition_accepts_is_valid_with_a_note(tmp_path, rows, message):
    path = write_csv(tmp_path / "s.csv", rows)
    findings, _ = validate(path, ["a", "b"], strict=False)
    assert [finding.severity for finding in findings] == ["note"]
    assert re.search(message, str(findings[0]))
    order = ("--sample", write_csv(tmp_path / "sample.csv", [("a", ""), ("b", "")]))
    lenient = command("validate", path, *order)
    assert lenient.returncode == 0 and "valid, 2 images, 1 of them with 1 cars" in lenient.stdout
    assert re.search(f"^note: .*{message}.*\n$", lenient.stderr)
    strict = command("validate", path, *order, "--strict")
    assert strict.returncode == 1 and "error: " in strict.stdout and not strict.stderr


def command(*args):
    return run_module("carpose.kaggle", *args, check=False)


def test_commands_validate_and_write(tmp_path):
    sample = write_csv(tmp_path / "sample.csv", [("ID_1", PREDICTED), ("ID_0", PREDICTED)])
    cars.write(tmp_path / "cars.parquet", random_cars(9, images=2))
    written = command("write", tmp_path / "cars.parquet", "--sample", sample, "--output", tmp_path / "s.csv")
    assert written.returncode == 0 and "valid, 2 images, 2 of them with 9 cars" in written.stdout
    assert command("validate", tmp_path / "s.csv", "--sample", sample).returncode == 0
    write_csv(tmp_path / "s.csv", [("ID_1", "")])
    failed = command("validate", tmp_path / "s.csv", "--sample", sample)
    assert failed.returncode == 1 and "ID_0" in failed.stdout
    write_csv(tmp_path / "s.csv", [("ID_1", ""), ("ID_0", "")])
    empty = command("validate", tmp_path / "s.csv", "--sample", sample)
    assert empty.returncode == 0 and "s.csv: there is no car in any of its images" in empty.stdout


def test_labels_are_not_written_as_a_submission(tmp_path):
    cars.write(tmp_path / "labels.parquet", random_cars(2, images=1).drop(columns="score"))
    sample = write_csv(tmp_path / "sample.csv", [("ID_0", "")])
    files = (tmp_path / "labels.parquet", "--sample", sample, "--output", tmp_path / "s.csv")
    failed = command("write", *files)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "labels.parquet: no column score; predictions are needed here" in failed.stderr
    assert not (tmp_path / "s.csv").exists()


def test_real_predictions_are_a_valid_submission(real, tmp_path):
    image_ids = read_sample(real / "sample_submission.csv")
    table, _ = read_submission(real / "test_predictions.csv")
    write_submission(tmp_path / "s.csv", table, image_ids)
    assert validate(tmp_path / "s.csv", image_ids)[0] == []


def test_the_order_can_come_from_the_table_of_images(tmp_path):
    """Only test photos, in their order, including excluded ones."""
    rows = [("x", "train", ""), ("ID_1", "test", ""), ("ID_9", "test", "broken"), ("ID_0", "test", "")]
    images = pd.DataFrame(rows, columns=["ImageId", "split", "excluded"]).assign(phash="")
    parquet.write(tmp_path / "images.parquet", images)
    cars.write(tmp_path / "cars.parquet", random_cars(9, images=2))
    order = ("--images", tmp_path / "images.parquet")
    written = command("write", tmp_path / "cars.parquet", *order, "--output", tmp_path / "s.csv")
    assert written.returncode == 0 and read_submission(tmp_path / "s.csv")[1] == ["ID_1", "ID_9", "ID_0"]
    assert command("validate", tmp_path / "s.csv", *order).returncode == 0
    parquet.write(tmp_path / "images.parquet", images[:1])
    failed = command("validate", tmp_path / "s.csv", *order)
    assert failed.returncode == 2 and "images.parquet: names no test photo" in failed.stderr


def test_written_labels_agree_with_the_table_to_six_digits(tmp_path):
    table = street_labels(5)
    image_ids = [*table["ImageId"].unique(), "no_car"]
    write_labels(tmp_path / "train.csv", table, image_ids)
    back, order = read_labels(tmp_path / "train.csv")
    assert order == image_ids and (back["model_type"] == table["model_type"]).all()
    np.testing.assert_allclose(back[cars.POSE], table[cars.POSE], rtol=1e-5)
