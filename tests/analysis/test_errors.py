"""Error analysis: pairing, groups of cars, causes, calibration."""

import shutil

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.analysis import errors
from carpose.core import cars, parquet
from carpose.geometry import camera
from tests.helpers import folds_of, noisy_view, run_module


def table(rows, **columns):
    """Cars on the road: x, z, yaw; each in the image ID_0 unless said otherwise."""
    x, z, yaw = np.array(rows, float).T
    result = pd.DataFrame(
        {"ImageId": "ID_0", "pitch": 0.15, "yaw": yaw, "roll": 3.1, "x": x, "y": 3.0, "z": z}
    )
    return result.assign(**columns)


@pytest.fixture
def truth():
    """Ten images with six cars each, far enough from each other."""
    rng = np.random.default_rng(1)
    tables = []
    for i in range(10):
        spots = rng.permutation([(x, z) for x in (-10, -3, 4, 11) for z in (15, 25, 40, 60)])[:6]
        rows = np.column_stack([spots, rng.uniform(-3, 3, 6)])
        tables.append(table(rows, ImageId=f"ID_{i}", model_type=np.arange(6) % 3))
    return cars.concat(tables)


@pytest.fixture
def predictions(truth):
    """Some missed, some false, all others off in depth, direction and angle."""
    rng = np.random.default_rng(2)
    true = truth[rng.random(len(truth)) < 0.8].reset_index(drop=True)
    true[cars.POSITION] *= np.exp(rng.normal(0, 0.05, (len(true), 1)))
    true["yaw"] += rng.normal(0, 0.3, len(true))
    true["x"] += rng.normal(0, 0.1, len(true))
    false = true.sample(8, random_state=0).assign(z=lambda t: t["z"] * 2, x=lambda t: t["x"] - 30)
    table = cars.concat([true, false])
    return table.assign(score=rng.uniform(0.1, 1, len(table)), depth_sigma=0.05)


def test_pairs_are_the_cars_that_predictions_were_made_from(truth, predictions):
    """However they are ordered, and although some are too far off for the metric."""
    matched_truth = errors.pair_with_truth(truth, predictions)
    assert (matched_truth >= 0).sum() == len(predictions) - 8 and (matched_truth[-8:] == -1).all()
    same = truth.iloc[matched_truth[:-8]].reset_index(drop=True)
    assert (same["ImageId"] == predictions["ImageId"][:-8]).all()
    assert np.abs(np.log(same["z"] / predictions["z"][:-8])).max() < 0.2
    assert len(set(matched_truth[:-8])) == len(matched_truth) - 8
    order = np.random.default_rng(0).permutation(len(predictions))
    assert (
        errors.pair_with_truth(truth, predictions.iloc[order].reset_index(drop=True)) == matched_truth[order]
    ).all()


def test_of_two_predictions_of_one_car_the_higher_score_is_paired():
    truth = table([(0, 20, 0)])
    both = table([(0, 20.1, 0), (0, 21, 0)], score=[0.3, 0.9])
    assert errors.pair_with_truth(truth, both).tolist() == [-1, 0]


def test_no_prediction_at_all(truth, predictions):
    tables = errors.errors(truth, predictions[:0], folds_of(truth, 1), camera.INTRINSICS, camera.PHOTO_SIZE)
    assert (tables["thresholds"]["missed"] == 1).all() and not len(tables["depth"])
    assert (tables["worst"]["lost"] == 6).all()


def test_each_oracle_corrects_one_error(truth, predictions):
    """Known values: with true poses only misses and false cars are left; of perfect predictions nothing
    is."""
    matched_truth = errors.pair_with_truth(truth, predictions)
    oracles = errors.oracles(truth, predictions, folds_of(truth, 1), matched_truth).set_index("oracle")["mAP"]
    assert oracles["as predicted"] == metric.evaluate(truth, predictions)["mAP"]
    right = predictions.copy()
    right.loc[matched_truth >= 0, cars.POSE] = truth.iloc[matched_truth[matched_truth >= 0]][
        cars.POSE
    ].to_numpy()
    assert oracles["true pose"] == metric.evaluate(truth, right)["mAP"] > 0.6
    assert oracles["true pose"] > oracles["true depth"] > oracles["as predicted"]
    assert oracles["true depth and centre"] >= oracles["true depth"]
    for better in ("true rotation", "no misses", "no false cars", "best order"):
        assert oracles[better] > oracles["as predicted"], better
    perfect = errors.oracles(truth, truth.assign(score=1.0), folds_of(truth, 1), np.arange(len(truth)))
    assert (perfect["mAP"] == 1).all() and (perfect["gain"] == 0).all()


def test_true_depth_keeps_the_direction():
    truth, predicted = table([(5, 20, 0)]), table([(6, 24, 0)], score=1.0)
    predicted["y"] *= 1.2  # on the same ray, 20 % too far
    matched_truth = errors.pair_with_truth(truth, predicted)
    oracles = errors.oracles(truth, predicted, folds_of(truth, 1), matched_truth).set_index("oracle")["mAP"]
    assert oracles["as predicted"] == 0 and oracles["true depth"] == 1 and oracles["true centre"] == 0


def test_shares_at_each_threshold_are_the_metric_s(truth, predictions):
    matched_truth = errors.pair_with_truth(truth, predictions)
    shares = errors.by_threshold(truth, predictions, matched_truth)
    outcomes = ["hit", "fails_distance", "fails_rotation", "fails_both", "missed"]
    np.testing.assert_allclose(shares[outcomes].sum(axis=1), 1)
    hits = metric.match(truth, predictions).sum(axis=0)
    np.testing.assert_allclose(shares["hit"] * len(truth), hits)
    turned = truth.assign(yaw=truth["yaw"] + np.radians(22), score=1.0)
    shares = errors.by_threshold(truth, turned, np.arange(len(truth)))
    assert shares["hit"].tolist() == [1] * 6 + [0] * 4 == (1 - shares["fails_rotation"]).tolist()


def test_groups_of_cars():
    """A crossing car before an oncoming one; one far to the side whose heading is along its ray."""
    truth = table([(0, 12, np.pi / 2), (0.2, 30, np.pi), (-40, 40, -np.pi / 4), (30, 20, 0)])
    truth["pitch"], truth["roll"], truth["y"] = 0.0, 0.0, 1.0
    kinds = errors.groups(truth, truth, camera.INTRINSICS, camera.PHOTO_SIZE)
    assert kinds["seen side"].tolist()[:3] == ["90°", "front", "rear"]
    assert kinds["hidden"].tolist() == ["under 10 %", "over 50 %", "under 10 %", "under 10 %"]
    assert kinds["distance"].tolist() == ["0–20", "20–40", "40–60", "20–40"]
    assert kinds["heading"].tolist() == ["across", "along the road"] * 2
    assert kinds["edge"].tolist() == ["whole"] * 2 + ["cut off"] * 2
    assert kinds["centre"].tolist() == ["in the photo"] * 2 + ["outside"] * 2


def test_a_group_s_score_is_the_metric_s_on_it_alone(truth, predictions):
    """Where groups keep to themselves: images of near cars and images of far ones."""
    far = truth["ImageId"] >= "ID_5"
    truth.loc[far, cars.POSITION] *= 4.2
    predictions.loc[predictions["ImageId"] >= "ID_5", cars.POSITION] *= 4.2
    groups = errors.by_group(truth, predictions, camera.INTRINSICS, camera.PHOTO_SIZE)
    assert groups[groups["by"] == "distance"]["truths"].sum() == len(truth)
    image_ids = [f"ID_{i}" for i in range(10)]
    near_truth = groups[(groups["by"] == "distance")].set_index("group")
    band = truth["z"] < 20
    only = metric.evaluate(truth[band], predictions[predictions["z"] < 20], image_ids)
    assert near_truth.loc["0–20", "mAP"] == pytest.approx(only["mAP"], abs=0.08)
    types = groups[groups["by"] == "model type"]
    assert types["truths"].sum() == len(truth) and types["mAP"].isna().all()
    recall = (types["recall_10%_50deg"] * types["truths"]).sum()
    assert recall == pytest.approx(metric.match(truth, predictions)[:, 0].sum())


def test_a_hit_on_another_group_counts_neither_way():
    """At 19.5 m predicted at 20.5 m: no false car of the farther band."""
    truth = table([(0, 19.5, 0), (5, 30, 0)])
    predicted = table([(0, 20.5, 0), (5, 30, 0)], score=[0.9, 0.5])
    groups = (
        errors.by_group(truth, predicted, camera.INTRINSICS, camera.PHOTO_SIZE)
        .query("by == 'distance'")
        .set_index("group")
    )
    # At the five pairs under 5.1 % it hits nothing, and is then a false car where it lies itself.
    assert groups.loc["20–40", "mAP"] == pytest.approx((5 * 1 + 5 * 0.5) / 10)
    assert groups.loc["0–20", "recall_10%_50deg"] == 1


def test_scores_and_sigmas_that_are_right_are_found_right():
    rng = np.random.default_rng(3)
    count = 4000
    truth = table(np.column_stack([np.zeros(count), np.full(count, 30.0), np.zeros(count)]))
    truth["ImageId"] = [f"ID_{i}" for i in range(count)]
    sigma = rng.uniform(0.01, 0.1, count)
    score = rng.random(count)
    predicted = truth.assign(score=score, depth_sigma=sigma)
    predicted[cars.POSITION] *= np.exp(rng.laplace(0, sigma / np.sqrt(2)))[:, None]
    bins = errors.depth_bins(truth, predicted, errors.pair_with_truth(truth, predicted))
    np.testing.assert_allclose(bins["error"], bins["sigma"], rtol=0.15)
    np.testing.assert_allclose(bins["within_1_sigma"], 0.757, atol=0.05)
    assert bins["cars"].sum() > count - 5  # a few are a factor of 1.5 off
    calibrated = truth.assign(score=score, yaw=np.where(rng.random(count) < score, 0, 3))
    bins = errors.score_bins(truth, calibrated)
    np.testing.assert_allclose(bins["hit_10%_50deg"], bins["score"], atol=0.08)
    assert bins["cars"].sum() == count and len(bins) == 10


def test_worst_images(truth):
    predicted = truth.assign(score=0.9)
    predicted = predicted[predicted["ImageId"] != "ID_4"]  # all missed
    false = table([(-30, 70, 0), (30, 70, 0)], ImageId="ID_7", score=0.6)
    worst = errors.worst_images(truth, cars.concat([predicted, false]))
    assert worst["ImageId"].tolist()[:3] == ["ID_4", "ID_7", "ID_0"]
    np.testing.assert_allclose(worst["lost"][:3], [6, 1.2, 0])


def test_command_line(prepared, tmp_path):
    labels = cars.read(prepared / "labels.parquet")
    folds = parquet.read_folds(prepared / "folds.parquet")["ImageId"]
    predicted = noisy_view(labels, np.random.default_rng(0)).assign(depth_sigma=0.05)
    cars.write(tmp_path / "oof.parquet", predicted, image_ids=folds)
    command = ["carpose.analysis", "errors", "--data", prepared / "data", "--output", tmp_path / "out"]
    for name in ("labels", "images", "folds"):
        command += [f"--{name}", prepared / f"{name}.parquet"]
    command += ["--members", f"a={tmp_path}/oof.parquet", f"b={tmp_path}/oof.parquet", "--worst", 2]
    done = run_module(*command)
    assert "a: mAP if a single error were corrected" in done.stdout
    tables = ["groups", "thresholds", "oracles", "scores", "depth", "worst"]
    for name in tables:
        assert pd.read_csv(tmp_path / "out" / f"{name}.csv")["name"].unique().tolist() == ["a", "b"]
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {
        "groups",
        "causes",
        "calibration",
        "worst",
    }
    cars.write(tmp_path / "oof.parquet", predicted, image_ids=folds[1:])
    failed = run_module(*command, check=False)
    assert failed.returncode == 2 and "oof.parquet: 1 of 12 photos were not" in failed.stderr


def test_labels_of_other_photos_are_refused_and_a_lost_photo_costs_no_table(prepared, tmp_path):
    labels, folds = cars.read(prepared / "labels.parquet"), parquet.read_folds(prepared / "folds.parquet")
    predicted = noisy_view(labels, np.random.default_rng(0)).assign(depth_sigma=0.05)
    cars.write(tmp_path / "oof.parquet", predicted, image_ids=folds["ImageId"])
    cars.write(tmp_path / "labels.parquet", labels.assign(ImageId=labels["ImageId"] + "_other"))
    shutil.copytree(prepared / "data" / "camera", tmp_path / "data" / "camera")  # and no photo
    command = ["carpose.analysis", "errors", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    command += ["--folds", prepared / "folds.parquet", "--images", prepared / "images.parquet"]
    command += ["--members", f"a={tmp_path}/oof.parquet", "--labels"]
    failed = run_module(*command, tmp_path / "labels.parquet", check=False)
    assert failed.returncode == 2 and "labels.parquet: none of its" in failed.stderr
    failed = run_module(*command, prepared / "labels.parquet", check=False)
    assert failed.returncode == 2 and "cannot be read as a picture" in failed.stderr
    done = run_module(*command, prepared / "labels.parquet", "--lenient")
    assert "worst.png: not drawn" in done.stderr and done.stderr.count("not drawn") == 1
    assert len(list((tmp_path / "out").glob("*.csv"))) == 7 and (tmp_path / "out" / "worst.png").exists()
