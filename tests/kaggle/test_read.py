"""Readers of truth, predictions and members, and the checks of their photos."""

import numpy as np
import pandas as pd
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.kaggle.read import (
    check_coverage,
    check_out_of_fold,
    check_same_photos,
    images_of,
    read_image_ids,
    read_members,
    read_predictions,
    read_truth,
    tables_of,
)
from tests.helpers import CAR, POSES, PREDICTED, write_csv


@pytest.fixture
def predictions(tmp_path):
    """Cars on a and b, of a network that predicted c as well."""
    cars.write(tmp_path / "p.parquet", POSES.assign(score=0.5), image_ids=["c", "a", "b"])
    return tmp_path / "p.parquet"


def test_truth_is_read_from_both_formats(tmp_path):
    path = write_csv(tmp_path / "train.csv", [("a", CAR)])
    cars.write(tmp_path / "labels.parquet", read_truth(path))
    pd.testing.assert_frame_equal(read_truth(path), read_truth(tmp_path / "labels.parquet"))


def test_predictions_list_their_photos(predictions, tmp_path):
    assert read_predictions(predictions).image_ids == ["c", "a", "b"]
    path = write_csv(tmp_path / "s.csv", [("b", PREDICTED), ("a", "")])
    assert read_predictions(path).image_ids == ["b", "a"]
    POSES.assign(score=0.5).to_parquet(tmp_path / "old.parquet")
    assert read_predictions(tmp_path / "old.parquet").image_ids is None
    members = read_members([f"x={path}", f"y={predictions}", f"z={tmp_path}/old.parquet"])
    assert images_of(members) == ["b", "a", "c"] and list(tables_of(members)) == ["x", "y", "z"]
    assert images_of(read_members([tmp_path.joinpath("old.parquet").as_posix()])) == ["a", "b"]


def test_a_table_must_cover_the_photos_of_the_folds(predictions):
    members = read_members([f"round0/a={predictions}"])
    check_coverage(members, ["a", "b"])
    with pytest.raises(UserError, match=r"p.parquet: 2 of 3 photos .* first d; .*-R predict"):
        check_coverage(members, ["a", "d", "e"])


def test_photos_must_be_predicted_by_the_network_that_was_not_trained_on_them(tmp_path):
    """By the folds given: a table that was made with other folds is not out of fold."""
    folds = pd.DataFrame({"ImageId": ["a", "b", "c"], "fold": [0, 1, 1]})
    table = POSES.assign(score=0.5)
    path = tmp_path / "oof.parquet"
    members = [f"m={path}"]
    for fold in (table["ImageId"].map({"a": 0, "b": 1}), None):
        cars.write(path, table if fold is None else table.assign(fold=fold), image_ids="abc")
        check_out_of_fold(read_members(members), folds)
    cars.write(path, table.assign(fold=0), image_ids="abc")
    with pytest.raises(UserError, match=r"oof.parquet: 1 photos .* image b by fold 0's, .* in fold 1; train"):
        check_out_of_fold(read_members(members), folds)
    check_out_of_fold(read_members(members), folds[:1])
    cars.write(path, table.assign(fold=0), image_ids="ab")
    with pytest.raises(UserError, match=r"oof.parquet: 1 of 3 photos were not predicted, first c"):
        check_out_of_fold(read_members(members), folds)


def test_a_submission_must_have_a_row_for_every_photo(tmp_path):
    members = read_members([str(write_csv(tmp_path / "s.csv", [("a", PREDICTED)]))])
    with pytest.raises(UserError, match=r"s.csv: 1 of 2 photos .* first b; add a row for every photo"):
        check_coverage(members, ["a", "b"])


def test_a_table_without_a_list_of_photos_is_not_checked(tmp_path):
    POSES.assign(score=0.5).to_parquet(tmp_path / "old.parquet")
    check_coverage(read_members([f"a={tmp_path}/old.parquet"]), ["a", "d"])


def test_members_are_named(predictions, tmp_path):
    for argument in ("=p.parquet", "p="):
        with pytest.raises(UserError, match="give each file as NAME=PATH"):
            read_members([argument])
    with pytest.raises(UserError, match="two files are called p; give one of them another name"):
        read_members([str(predictions), f"p={predictions}"])
    cars.write(tmp_path / "labels.parquet", POSES)
    with pytest.raises(UserError, match="labels.parquet: no column score"):
        read_members([f"{tmp_path}/labels.parquet"])


def test_cars_that_a_submission_must_not_have_are_an_error(tmp_path):
    cars.write(tmp_path / "p.parquet", POSES.assign(score=0.5, z=-5.0))
    with pytest.raises(UserError, match="p.parquet, image a: a car is not in front of the camera"):
        read_predictions(tmp_path / "p.parquet")


def test_scores_of_members_are_scaled_and_predictions_stay_as_written(tmp_path):
    """The fusion needs scores in 0–1; the metric depends on the range of angles. Scores in range keep their
    bits."""
    cars_ = [PREDICTED.replace("-1.5", "3.15").replace("0.9", "30"), PREDICTED.replace("0.9", "-10")]
    path = write_csv(tmp_path / "s.csv", [("a", " ".join(cars_)), ("b", PREDICTED)])
    written = read_predictions(path).cars
    assert written["yaw"].tolist() == [3.15, -1.5, -1.5] and written["score"].tolist() == [30, -10, 0.9]
    member = read_members([str(path)])["s"].cars
    assert member["yaw"].tolist() == [3.15, -1.5, -1.5]
    np.testing.assert_allclose(member["score"], [1, 0, 10.9 / 40])
    assert (member["roll"] == written["roll"]).all() and (member["pitch"] == written["pitch"]).all()
    write_csv(path, [("a", PREDICTED), ("b", PREDICTED.replace("0.9", "2"))])
    assert read_members([str(path)])["s"].cars["score"].tolist() == [0.45, 1]  # zero stays zero
    with pytest.raises(UserError, match="a score is outside"):
        read_members([str(path)], strict=True)
    cars.write(tmp_path / "p.parquet", POSES.assign(score=1.5))
    with pytest.raises(UserError, match="p.parquet, image a: a score is outside"):
        read_members([f"{tmp_path}/p.parquet"])


def test_images_need_a_column(tmp_path):
    (tmp_path / "i.csv").write_text("name\na\n")
    with pytest.raises(UserError, match="i.csv.*ImageId"):
        read_image_ids(tmp_path / "i.csv")


def test_a_table_of_other_photos_is_an_error():
    check_same_photos("t.csv", POSES, ["b", "z"])
    check_same_photos("t.csv", POSES.iloc[:0], ["z"])  # photos without a car
    with pytest.raises(UserError, match="t.csv: none of its 3 cars is on one of the 2 photos .*, such as y"):
        check_same_photos("t.csv", POSES, ["y", "z"])
