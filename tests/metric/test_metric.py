"""The metric against a literal per-car loop, against known values, and on real predictions."""

import json
import os
import subprocess
from math import pi

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars
from carpose.core.errors import UserError
from carpose.kaggle.submission import write_submission
from carpose.kaggle.tables import PREDICTION, read_labels, read_submission
from carpose.metric.__main__ import main
from carpose.metric.score import quaternion
from tests import reference
from tests.helpers import noisy_view, run_module, street_labels


def scene(seed, images=25):
    """Crowded truth, and predictions near it: doubled, turned, missing and invented, with tied scores."""
    rng = np.random.default_rng(seed)
    count = images * 12
    truth = pd.DataFrame(rng.normal(0, 0.1, (count, 6)), columns=cars.POSE)
    truth["yaw"] = rng.uniform(-pi, pi, count)
    truth["roll"] = rng.choice([-1, 1], count) * pi + rng.normal(0, 0.02, count)
    truth["x"], truth["y"], truth["z"] = rng.uniform(-5, 5, count), 2.0, rng.uniform(8, 60, count)
    truth.insert(0, "ImageId", rng.integers(0, images, count).astype(str))
    predictions = truth.sample(2 * count, replace=True, random_state=seed).reset_index(drop=True)
    predictions[cars.POSITION] *= rng.normal(1, 0.05, (2 * count, 1))
    predictions["yaw"] += rng.normal(0, 0.4, 2 * count)
    predictions["score"] = rng.uniform(0, 1, 2 * count).round(1)
    predictions.loc[:20, "ImageId"] = "an image without truth"
    return truth, predictions


@pytest.mark.parametrize("mode", metric.MODES)
def test_agrees_with_the_literal_loop(mode):
    truth, predictions = scene(seed=1)
    images = sorted(set(truth["ImageId"]) | set(predictions["ImageId"]))
    ap, hits = reference.metric(truth, predictions, images, mode)
    result = metric.evaluate(truth, predictions, images, mode)
    assert hits[0] > hits[5] > hits[9] > 0
    np.testing.assert_allclose(result["AP"], ap, rtol=0, atol=1e-9)
    assert result["hits"] == hits


def test_agrees_with_the_literal_loop_on_made_up_labels():
    """Cars all along the road, roll on both sides of the seam; one photo has none that is found."""
    truth = street_labels(12)
    rng = np.random.default_rng(0)
    predictions = noisy_view(truth[truth["ImageId"] != truth["ImageId"][0]], rng)
    images = truth["ImageId"].unique().tolist()
    ap, hits = reference.metric(truth, predictions, images)
    result = metric.evaluate(truth, predictions, images)
    np.testing.assert_allclose(result["AP"], ap, rtol=0, atol=1e-9)
    assert result["hits"] == hits and hits[0] > hits[9] > 0


def test_agrees_with_the_literal_loop_on_real_predictions(real):
    truth, _ = read_labels(real / "train.csv")
    predictions, images = read_submission(real / "val_predictions.csv")
    counted = images[:30]
    ap, hits = reference.metric(
        truth[truth["ImageId"].isin(counted)], predictions[predictions["ImageId"].isin(counted)], counted
    )
    result = metric.evaluate(truth, predictions, counted)
    np.testing.assert_allclose(result["AP"], ap, rtol=0, atol=1e-9)
    assert result["hits"] == hits


def test_real_values(real):
    truth, _ = read_labels(real / "train.csv")
    predictions, images = read_submission(real / "val_predictions.csv")
    result = metric.evaluate(truth, predictions, images)
    assert result["hits"] == [1574, 1468, 1311, 1143, 996, 825, 652, 456, 271, 73]
    assert (result["predictions"], result["truths"]) == (2689, 5019)
    assert result["mAP"] == pytest.approx(0.08448, abs=1e-5)
    expected = [0.2071, 0.1810, 0.1453, 0.1113, 0.0825, 0.0561, 0.0371, 0.0178, 0.0063, 0.0004]
    np.testing.assert_allclose(result["AP"], expected, rtol=0, atol=1e-4)
    equal = metric.evaluate(truth, predictions, images, "equal")
    assert equal["mAP"] == pytest.approx(0.0744, abs=5e-5)
    precision_times_recall = np.array(result["hits"]) ** 2 / (2689 * 5019)
    np.testing.assert_allclose(equal["AP"], precision_times_recall, rtol=0, atol=1e-12)


def test_leaderboard_values(real):
    """Of the cars within 10 % of the nearest true car's distance, and with the sign of W folded."""
    truth, _ = read_labels(real / "train.csv")
    predictions, images = read_submission(real / "val_predictions.csv")
    beyond = folded = near = 0
    for image_id, table in predictions.groupby("ImageId"):
        at, true = table[cars.POSITION].to_numpy(), truth[truth["ImageId"] == image_id]
        position = true[cars.POSITION].to_numpy()
        apart = np.linalg.norm(at[:, None] - position, axis=2) / np.linalg.norm(position, axis=1)
        rows = np.flatnonzero(apart.min(axis=1) < 0.1)
        q, q_true = quaternion(table.iloc[rows], "leaderboard"), quaternion(true, "leaderboard")
        w = (q * q_true[apart.argmin(axis=1)[rows]]).sum(axis=1).clip(-1, 1)
        near += len(rows)
        beyond += (np.degrees(np.arccos(w)) > 50).sum()
        folded += (np.degrees(np.arccos(np.abs(w))) > 50).sum()
    assert (near, beyond, folded) == (1760, 447, 74)
    counted = images[:30]
    few = [table[table["ImageId"].isin(counted)] for table in (truth, predictions)]
    ap, hits = reference.metric(*few, counted, "leaderboard")
    result = metric.evaluate(truth, predictions, counted, "leaderboard")
    np.testing.assert_allclose(result["AP"], ap, rtol=0, atol=1e-9)
    assert result["hits"] == hits and hits[0] > 0


def test_the_leaderboard_sees_in_which_range_an_angle_is_written():
    truth = pd.DataFrame([car(roll=3.13)])
    for roll, expected in ((3.13, 1), (3.1, 1), (-3.13, 0), (-3.13 + 2 * pi, 1)):
        result = metric.evaluate(truth, pd.DataFrame([car(0.5, roll=roll)]), mode="leaderboard")
        assert result["hits"][0] == expected
        assert metric.evaluate(truth, pd.DataFrame([car(0.5, roll=roll)]))["mAP"] == 1
    # Half of the angle: 24° are 12, so that they pass what 24° themselves do not.
    turned = pd.DataFrame([car(yaw=np.radians(24))])
    assert metric.match(pd.DataFrame([car()]), turned, "leaderboard")[0].tolist() == [True] * 8 + [False] * 2


def test_truth_as_prediction_scores_one_and_zero_roll_scores_nothing(real):
    truth, _ = read_labels(real / "train.csv")
    perfect = truth.assign(score=0.5)
    assert metric.evaluate(truth, perfect)["mAP"] == pytest.approx(1)
    assert metric.evaluate(truth, perfect.assign(roll=0.0))["mAP"] < 0.001  # the mean of +π and −π
    swapped = perfect.assign(pitch=perfect["yaw"], yaw=perfect["pitch"])
    assert metric.evaluate(truth, swapped)["mAP"] == pytest.approx(0.21, abs=0.01)
    constant = perfect.assign(pitch=0.155, roll=-3.103)
    assert metric.evaluate(truth, constant)["mAP"] == pytest.approx(0.974, abs=0.002)


def car(score=1.0, z=10.0, image="a", **pose):
    return {"ImageId": image, **dict.fromkeys(cars.POSE, 0.0), "z": z, "score": score, **pose}


def test_only_a_hit_uses_up_the_truth_and_a_miss_is_not_tried_again():
    truth = pd.DataFrame([car(z=10.0), car(z=10.5)])
    # The surest is nearest to the first but turned: it must neither take it nor try the second.
    predictions = pd.DataFrame([car(0.5, z=10.0), car(0.9, z=10.1, yaw=3.0), car(0.4, z=10.01)])
    assigned = metric.assign(truth, predictions)
    assert assigned[:, 0].tolist() == [0, -1, 1]
    assert assigned[2, 5] == 1 and assigned[2, 6] == -1  # 4.7 % off: under .05, not under .04
    assert (metric.match(truth, predictions) == (assigned >= 0)).all()


def test_order_is_by_descending_score_and_stable():
    truth = pd.DataFrame([car()])
    assert metric.match(truth, pd.DataFrame([car(0.5), car(0.9)]))[:, 0].tolist() == [False, True]
    assert metric.match(truth, pd.DataFrame([car(0.5), car(0.5)]))[:, 0].tolist() == [True, False]


def test_thresholds_are_strict():
    truth = pd.DataFrame([car(z=10.0)])
    assert metric.match(truth, pd.DataFrame([car(z=10.5)]))[0].tolist() == [True] * 5 + [False] * 5
    turned = np.radians(22)
    assert metric.match(truth, pd.DataFrame([car(yaw=turned)]))[0].tolist() == [True] * 6 + [False] * 4


def test_no_pair_at_the_edge_is_lost_in_the_search_for_near_ones():
    """A car moved along the ray by a tenth of its distance: just inside counts, just outside does not."""
    truth, _ = scene(seed=2, images=40)
    for share, hit in ((0.9000001, True), (1.0999999, True), (0.8999999, False), (1.1000001, False)):
        alone = truth.groupby("ImageId").head(1)
        moved = alone.assign(score=1.0)
        moved[cars.POSITION] *= share
        assert (metric.match(alone, moved)[:, 0] == hit).all()


def test_the_best_threshold_is_that_of_all_that_could_be_tried():
    truth, predictions = scene(seed=3)
    best = metric.best_threshold(truth, predictions)

    def value(threshold):
        kept = predictions[predictions["score"] >= threshold]
        return metric.evaluate(truth, kept, truth["ImageId"].unique(), "equal")["mAP"]

    # Ties are cut between two of their cars, which a threshold cannot do.
    assert value(best) == pytest.approx(max(map(value, np.arange(0, 1, 0.05))), rel=0.02)
    nothing = predictions.assign(z=predictions["z"] * 100)
    assert metric.best_threshold(truth, nothing) == metric.best_threshold(truth[:0], predictions) == 0


def test_average_precision_steps_by_distinct_scores():
    hits = np.tile(np.array([[1], [0], [1], [0]], bool), 10)
    # Distinct: precision 1 and 2/3 at the two hits; the last two tied: precision 1 and 2/4.
    by_hand = (1 + 2 / 3) / 5
    assert metric.average_precision(hits, np.array([0.9, 0.8, 0.7, 0.6]), 5)[0] == pytest.approx(by_hand)
    tied = (1 + 2 / 4) / 5
    assert metric.average_precision(hits, np.array([0.9, 0.8, 0.7, 0.7]), 5)[0] == pytest.approx(tied)


def test_without_truth_or_predictions_the_score_is_zero():
    single, none = pd.DataFrame([car()]), cars.empty([*cars.POSE, "score"])
    for truth, predictions in ((single, none), (none, single), (none, none)):
        for mode in metric.MODES:
            result = metric.evaluate(truth, predictions, mode=mode)
            assert result["mAP"] == 0 and result["AP"] == [0] * 10 and result["hits"] == [0] * 10


def test_only_the_named_images_count():
    truth = pd.DataFrame([car(), car(image="b")])
    predictions = pd.DataFrame([car(), car(image="c")])
    assert metric.evaluate(truth, predictions)["mAP"] == pytest.approx(0.5 * 0.5)
    assert metric.evaluate(truth, predictions, ["a"])["mAP"] == 1
    assert metric.evaluate(truth, predictions, ["a", "b"])["mAP"] == pytest.approx(0.5)


def test_command_line(tmp_path):
    truth = pd.DataFrame([car(model_type=1), car(image="b", model_type=1)])
    cars.write(tmp_path / "truth.parquet", truth)
    write_submission(tmp_path / "p.csv", pd.DataFrame([car()]), ["a", "b"])
    command = ["carpose.metric", "--truth", tmp_path / "truth.parquet"]
    command += ["--predictions", tmp_path / "p.csv"]
    result = json.loads(run_module(*command).stdout)
    assert result["mAP"] == pytest.approx(0.5) and len(result["AP"]) == 10
    failed = run_module(*command[:-1], tmp_path / "no.csv", check=False)
    assert failed.returncode == 2 and "no.csv" in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.parametrize("named", ["p.parquet", "p.csv", "images.csv"])
def test_no_image_in_common_with_the_truth(tmp_path, monkeypatch, named):
    """And nothing to object to where only the image that is asked for is there, or no car was found."""
    cars.write(tmp_path / "truth.parquet", pd.DataFrame([car(), car(image="b")]))
    write_submission(tmp_path / "p.csv", pd.DataFrame([car()]), ["a"])
    cars.write(tmp_path / "p.parquet", pd.DataFrame([car()]))
    (tmp_path / "images.csv").write_text("ImageId\na\n")

    def run():
        predictions = "p.parquet" if named == "images.csv" else named
        images = [] if named == "p.parquet" else ["--images", "images.csv"]
        words = ["metric", "--truth", "truth.parquet", "--predictions", predictions, *images]
        monkeypatch.setattr("sys.argv", words)
        main()

    monkeypatch.chdir(tmp_path)
    run()
    if named == "images.csv":
        (tmp_path / named).write_text("ImageId\nelsewhere\n")
    elif named == "p.csv":
        write_submission(named, cars.empty(PREDICTION), [])
        with pytest.raises(UserError, match="none of its images"):
            run()
        write_submission(named, pd.DataFrame([car(image="elsewhere")]), ["elsewhere"])
    else:
        cars.write(named, cars.empty([*cars.POSE, "score"]))
        run()
        cars.write(named, pd.DataFrame([car(image="elsewhere")]))
    with pytest.raises(UserError, match=f"^{named}: none of its images has a car in the truth"):
        run()


def test_images_that_a_submission_leaves_out_are_said(tmp_path):
    car = "0.15 -1.5 -3.1 2.0 4.0 16.0"
    truth, submission = tmp_path / "train.csv", tmp_path / "s.csv"
    truth.write_text(f"ImageId,PredictionString\na,16 {car}\nb,16 {car}\n")
    command = ("carpose.metric", "--truth", truth, "--predictions", submission)
    submission.write_text(f"ImageId,PredictionString\na,{car} 0.9\n")
    done = run_module(*command)
    assert json.loads(done.stdout)["truths"] == 1
    assert "s.csv does not cover 1 of the truth's 2 images, such as b; they are not counted" in done.stderr
    (tmp_path / "images.csv").write_text("ImageId\na\n")
    assert not run_module(*command, "--images", tmp_path / "images.csv").stderr  # it was asked for
    submission.write_text(f"ImageId,PredictionString\nc,{car} 0.9\n")
    failed = run_module(*command, check=False)
    assert failed.returncode == 2 and "s.csv: none of its images has a car in the truth" in failed.stderr
    cars.write(tmp_path / "labels.parquet", read_labels(truth)[0])
    failed = run_module(*command[:-1], tmp_path / "labels.parquet", check=False)
    assert failed.returncode == 2 and "no column score; predictions are needed here" in failed.stderr


def test_submissions_as_the_competition_takes_them_are_measured(tmp_path):
    """Confidences above 1 rank the cars all the same; --strict refuses them."""
    car, off = "0.15 -1.5 -3.1 2.0 4.0 16.0", "0.15 -1.5 -3.1 2.0 4.0 30.0"
    truth, submission = tmp_path / "train.csv", tmp_path / "s.csv"
    truth.write_text(f"ImageId,PredictionString\na,16 {car}\n")
    command = ("carpose.metric", "--truth", truth, "--predictions", submission)
    for scores, value in (("20 10", 1), ("10 20", 0.5)):
        first, second = scores.split()
        submission.write_text(f",ImageId,PredictionString\n0,a,{car} {first} {off} {second}\n")
        done = run_module(*command)
        assert json.loads(done.stdout)["mAP"] == pytest.approx(value)
        assert done.stderr.count("note: ") == 2 == done.stderr.count("\n")
    submission.write_text(submission.read_text().replace(",", "", 1).replace("0,a", "a"))
    failed = run_module(*command, "--strict", check=False)
    assert failed.returncode == 2 and "s.csv, line 2, image a: a score is outside [0, 1]" in failed.stderr


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    """`… | head`: what is written into a pipe that nobody reads."""
    (tmp_path / "train.csv").write_text("ImageId,PredictionString\na,16 0.15 -1.5 -3.1 2.0 4.0 16.0\n")
    (tmp_path / "s.csv").write_text("ImageId,PredictionString\na,0.15 -1.5 -3.1 2.0 4.0 16.0 0.9\n")
    reader, writer = os.pipe()
    os.close(reader)
    command = ("carpose.metric", "--truth", tmp_path / "train.csv", "--predictions", tmp_path / "s.csv")
    done = run_module(*command, check=False, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert not done.stderr and done.returncode == 141
