"""The table of scores and the table of depth bands."""

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars, parquet
from carpose.evaluation.scores import bands, evaluate
from tests.helpers import run_module


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(0, 0.1, (60, 6)), columns=cars.POSE)
    table["x"], table["z"] = rng.uniform(-20, 20, 60), np.tile([10.0, 30, 50, 70, 100, 200], 10)
    table.insert(0, "ImageId", np.repeat([f"ID_{i}" for i in range(10)], 6))
    return table.assign(model_type=1)


def near(truth, noise, seed=0):
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, noise, (len(truth), 1)))
    return truth.assign(**(truth[cars.POSITION] * scale), score=rng.uniform(0, 1, len(truth)))


@pytest.fixture
def folds():
    return pd.DataFrame({"ImageId": [f"ID_{i}" for i in range(10)], "fold": [0, 1] * 5})


def test_scores_are_the_metric_s_and_sorted(truth, folds):
    members = {"poor": near(truth, 0.1), "good": near(truth, 0.02)}
    table, _ = evaluate(truth, folds, members)
    assert table["name"].tolist() == ["good", "poor"]
    assert table["oof_mAP"][0] == metric.evaluate_folds(truth, members["good"], folds)
    odd = folds.loc[folds["fold"] == 1, "ImageId"]
    assert table["fold1_mAP"][0] == metric.evaluate(truth, members["good"], odd)["mAP"]
    assert table["oof_cars"].tolist() == [60, 60]


def test_deviations_are_those_of_other_photos_and_repeatable(truth, folds):
    """Against the scores of many other draws of ten photos; the same photos for all members."""
    members = {"a": near(truth, 0.05), "b": near(truth, 0.05)}
    folds = folds.assign(fold=0)
    table, _ = evaluate(truth, folds, members, truth, list(folds["ImageId"]), members)
    assert table["oof_sd"].nunique() == 1 and (table["oof_sd"] == table["test_sd"]).all()
    rng, scores = np.random.default_rng(1), []
    for _ in range(200):
        drawn = [f"ID_{i}" for i in rng.integers(0, 10, 10)]
        tables = []
        for cars_ in (truth, members["a"]):
            photos = [cars_[cars_["ImageId"] == name] for name in drawn]
            tables.append(pd.concat([t.assign(ImageId=str(i)) for i, t in enumerate(photos)]))
        scores.append(metric.evaluate(*tables)["mAP"])
    assert table["oof_sd"][0] == pytest.approx(np.std(scores, ddof=1), rel=0.25)
    few, _ = evaluate(truth, folds, members, samples=20)
    assert few["oof_sd"][0] != table["oof_sd"][0] and few["oof_mAP"][0] == table["oof_mAP"][0]


def test_the_leaderboard_counts_the_cars_from_the_best_threshold_on(truth, folds):
    """The threshold is that of the out-of-fold cars, for test cars as well."""
    right = near(truth, 0.0)
    wrong = right.assign(z=right["z"] * 2, score=right["score"] / 2)
    cars_ = pd.concat([right.assign(score=0.5 + right["score"] / 2), wrong], ignore_index=True)
    table, _ = evaluate(truth, folds, {"a": cars_}, truth, list(folds["ImageId"]), {"a": cars_})
    assert wrong["score"].max() < table["threshold"][0] <= 0.5 + right["score"].min() / 2
    assert table["oof_mAP_leaderboard"][0] == table["test_mAP_leaderboard"][0] == 1
    fused = cars_.assign(above_threshold=cars_["score"] > 0.75)
    table, _ = evaluate(truth, folds, {"a": fused})
    assert (
        table["oof_mAP_leaderboard"][0]
        == metric.evaluate_folds(truth, fused[fused["above_threshold"]], folds, "leaderboard")
        < 1
    )
    alone, _ = evaluate(truth, folds, {}, truth, list(folds["ImageId"]), {"a": cars_})
    assert alone["test_mAP_leaderboard"][0] == metric.evaluate(truth, cars_, None, "leaderboard")["mAP"] < 1


def test_only_images_of_the_folds_count_and_missing_ones_do(truth, folds):
    nine = folds[folds["ImageId"] != "ID_9"]
    table, _ = evaluate(truth, nine, {"all": near(truth, 0)})
    assert table["oof_mAP"][0] == 1 and table["oof_cars"][0] == 54
    half = near(truth[truth["ImageId"] < "ID_5"], 0)
    table, _ = evaluate(truth, folds, {"half": half})
    assert table["oof_mAP"][0] == pytest.approx(0.5)


def test_bands(truth):
    predictions = near(truth, 0)
    predictions["z"] *= 1.04  # 4 % at most: found at 5 %, within the middle pair too
    predictions = predictions[predictions["z"] < 110]  # the farthest are all missed
    predictions.loc[predictions["z"] < 20, "yaw"] += 0.7  # 40°: the nearest fail the middle pair
    table = bands(truth, predictions).set_index("metres")
    assert table["truths"].tolist() == [10] * 6
    assert table["recall_10%_50deg"].tolist() == [1, 1, 1, 1, 1, 0]
    assert table["recall_5%_25deg"].tolist() == [0, 1, 1, 1, 1, 0]
    np.testing.assert_allclose(table["median_depth_error"], [0.04] * 5 + [np.nan], rtol=1e-9)


def test_a_member_without_cars(truth, folds):
    table, by_distance = evaluate(truth, folds, {"none": cars.empty([*cars.POSE, "score"])})
    assert table["oof_mAP"][0] == table["oof_sd"][0] == table["oof_cars"][0] == 0
    assert (by_distance["recall_10%_50deg"] == 0).all() and by_distance["truths"].sum() == 60


@pytest.fixture
def command(tmp_path, truth, folds):
    """The command on two members, out of fold and on the test photos."""
    cars.write(tmp_path / "labels.parquet", truth)
    parquet.write(tmp_path / "folds.parquet", folds)
    parquet.write(tmp_path / "images.parquet", folds.assign(split="test", excluded="", phash=""))
    members = {"round0/dla34": 0.05, "fused": 0.01}
    for name, noise in members.items():
        cars.write(tmp_path / f"{name[:5]}.parquet", near(truth, noise), image_ids=folds["ImageId"])
    named = [f"{name}={tmp_path / name[:5]}.parquet" for name in members]
    words = ["carpose.evaluation", "--labels", tmp_path / "labels.parquet"]
    words += ["--folds", tmp_path / "folds.parquet", "--members", *named, "--test-members", *named]
    words += ["--output", tmp_path / "e.csv", "--bands-output", tmp_path / "b.csv"]
    return [*words, "--test-truth", tmp_path / "labels.parquet"]


def test_by_hand_with_test_truth(tmp_path, command):
    failed = run_module(*command, check=False)
    assert failed.returncode == 2 and "--images" in failed.stderr
    shown = run_module(*command, "--images", tmp_path / "images.parquet", "--samples", 50)
    table = pd.read_csv(tmp_path / "e.csv")
    assert table["name"].tolist() == ["fused", "round0/dla34"]
    assert table["oof_mAP"].tolist() == pytest.approx(table["test_mAP"].tolist(), abs=0.02)
    assert table["test_mAP_leaderboard"].between(0, 1).all()
    assert (table["oof_sd"] > 0).all() and list(table.columns[1:3]) == ["oof_mAP", "oof_sd"]
    assert "fused by depth z" in shown.stdout and "round0/dla34" in shown.stdout
    assert len(pd.read_csv(tmp_path / "b.csv")) == 2 * 2 * 6


def test_a_member_that_did_not_see_all_photos_is_refused(tmp_path, truth, folds, command):
    cars.write(tmp_path / "fused.parquet", near(truth, 0.01), image_ids=folds["ImageId"][:8])
    failed = run_module(*command, "--images", tmp_path / "images.parquet", check=False)
    assert failed.returncode == 2 and "fused.parquet: 2 of 10 photos were not predicted" in failed.stderr


@pytest.mark.parametrize("file", ["labels", "truth"])
def test_true_cars_of_other_photos_are_refused(tmp_path, truth, command, file):
    """They would give a table of zeros."""
    cars.write(tmp_path / "truth.parquet", truth)
    cars.write(tmp_path / f"{file}.parquet", truth.assign(ImageId=truth["ImageId"] + "_other"))
    command += ["--images", tmp_path / "images.parquet", "--test-truth", tmp_path / "truth.parquet"]
    failed = run_module(*command, check=False)
    assert failed.returncode == 2 and f"error: {tmp_path}/{file}.parquet: none of its 60" in failed.stderr
    assert not (tmp_path / "e.csv").exists()
