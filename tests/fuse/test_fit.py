"""The fit of a fusion: which parts are used, no leak between folds, damaged members, its JSON."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.fuse.combine import fuse
from carpose.fuse.fit import fit_nested
from carpose.fuse.fitted import Fit, read_fit
from carpose.fuse.trial import fit
from carpose.fuse.write import advice
from carpose.kaggle.tables import read_submission
from tests import reference
from tests.fuse.conftest import value, value_by_folds
from tests.helpers import folds_of, noisy_view, run_module, scene


@pytest.fixture(scope="module")
def nested(truth, views):
    return fit_nested(truth, folds_of(truth, 2), views, "given")


@pytest.fixture(scope="module")
def two_only(truth, views):
    """mAP of the fusion without the third member."""
    two = {name: views[name] for name in "ab"}
    return fit_nested(truth, folds_of(truth, 2), two, "given")[0].mAP["fused"]


def test_fused_beats_members_and_baselines(truth, views, nested):
    best = max(value(truth, table) for table in views.values())
    fitted, fused = nested
    ours = value(truth, fused)
    assert fitted.mAP["fused"] == pytest.approx(value_by_folds(truth, fused)) == pytest.approx(ours, abs=0.01)
    assert ours > 1.3 * best
    for baseline in (reference.concatenate, reference.concatenate_nms, reference.linear_average):
        assert ours > 1.1 * value(truth, baseline(views))


def test_nested_gains_add_up(truth, views, nested):
    fitted, _ = nested
    total = sum(part.nested_gain for name, part in fitted.parts.items() if name != "angle_range")
    assert total == pytest.approx(fitted.mAP["fused"] - fitted.mAP["equal_weights"])
    assert fitted.mAP["equal_weights"] == pytest.approx(value_by_folds(truth, fuse(views)))


def test_the_best_member_is_compared_by_the_same_fit(truth, views, nested):
    """The best member alone is calibrated too, so that the fusion's gain over it is not due to
    calibration."""
    scores = nested[0].mAP
    best = max(scores["members"], key=scores["members"].get)
    alone = fit_nested(truth, folds_of(truth, 2), {best: views[best]}, "given")[0]
    assert scores["best_fitted"] == pytest.approx(alone.mAP["fused"])
    assert scores["members"][best] < scores["best_fitted"] < scores["fused"]


def test_weights_and_bias_pay_where_members_differ(truth):
    rng = np.random.default_rng(5)
    members = {
        "good": noisy_view(truth, rng, depth_noise=0.03),
        "biased": noisy_view(truth, rng, depth_noise=0.04, depth_bias=0.06),
        "poor": noisy_view(truth, rng, depth_noise=0.1),
    }
    fitted, _ = fit_nested(truth, folds_of(truth, 2), members, "given")
    for part in ("bias", "member_weights"):
        assert fitted.parts[part].on and fitted.parts[part].nested_gain > 0.01
    assert fitted.members["biased"].bias[0] == pytest.approx(0.06, abs=0.015)
    assert fitted.members["poor"].sigma > 2 * fitted.members["good"].sigma
    assert fitted.mAP["fused"] > fitted.mAP["equal_weights"] + 0.05


def test_members_that_drag_the_others_down_are_left_out(truth, views):
    """Worse copies of one member share its errors and add their own: nothing can be learnt from them."""

    def copy(seed):
        rng, table = np.random.default_rng(seed), views["a"].copy()
        table[cars.POSITION] *= np.exp(rng.normal(0, 0.2, (len(table), 1)))
        return table.assign(score=np.clip(table["score"] + rng.normal(0, 0.3, len(table)), 0.01, 1))

    members = {"a": views["a"]} | {f"copy{seed}": copy(seed) for seed in range(3)}
    fitted, fused = fit_nested(truth, folds_of(truth, 2), members, "given")
    assert fitted.parts["members"].on and fitted.used == ["a"]
    assert value(truth, fused) > 0.97 * value(truth, views["a"])
    # The gain of leaving them out is counted for this part, not for the member weights after it.
    assert fitted.parts["members"].nested_gain > 0.05 > abs(fitted.parts["member_weights"].nested_gain)
    # The fit is for all members; those left out do not reach the result.
    pd.testing.assert_frame_equal(fuse(members, fitted), fuse({"a": views["a"]}, fitted))


def test_ground_pays_where_there_is_one(nested):
    fitted, _ = nested
    assert fitted.parts["ground"].on and fitted.parts["ground"].nested_gain > 0.01
    assert fitted.ground["mean"] == pytest.approx([0, 0.16, 1.46], abs=0.02)


def test_ground_is_left_out_where_cars_are_at_any_height(truth):
    rng = np.random.default_rng(4)
    afloat = truth.assign(y=truth["y"] * rng.uniform(-1, 1, len(truth)))
    members = {name: noisy_view(afloat, rng, aside=0.004) for name in "ab"}
    fitted, _ = fit_nested(afloat, folds_of(afloat, 2), members, "given")
    assert fitted.parts["ground"].gain < 0.005


def test_a_fit_that_does_not_pay_is_not_used(truth, views):
    """A member that sees too far in one fold and too near in the other: what is learnt in one harms there."""
    folds, rng = folds_of(truth, 2), np.random.default_rng(0)
    side = np.where(truth["ImageId"].map(folds.set_index("ImageId")["fold"]) == 0, 0.03, -0.03)
    afloat = truth.assign(y=truth["y"] * rng.uniform(-1, 1, len(truth)))
    table = afloat.assign(score=rng.uniform(0.5, 1, len(truth)))
    table[cars.POSITION] *= np.exp(side + rng.normal(0, 0.01, len(truth)))[:, None]
    members = {"a": table, "b": views["b"]}
    fitted, fused = fit_nested(afloat, folds, members, "given")
    assert fitted.enabled_parts() == ["members"] and fitted.used == ["a"]
    assert fitted.mAP["fused"] == pytest.approx(fitted.mAP["members"]["a"])
    assert len(fused) == len(table)
    again = Fit.from_json(fitted.to_json())
    assert again == fitted
    of_both, alone = fuse(members, again), fuse({"a": table})
    pd.testing.assert_frame_equal(
        of_both[["ImageId", *cars.POSE, "score"]], alone[["ImageId", *cars.POSE, "score"]]
    )


def test_folds_are_scored_by_themselves(truth, views):
    """Scores of other networks or fits are on another scale: that is no loss of either fold."""
    folds = folds_of(truth, 2)
    table = views["a"]
    in_first = table["ImageId"].isin(folds.loc[folds["fold"] == 0, "ImageId"])
    scaled = table.assign(score=np.where(in_first, table["score"] / 10, table["score"]))
    assert metric.evaluate_folds(truth, scaled, folds) == metric.evaluate_folds(truth, table, folds)
    assert value(truth, scaled) < 0.95 * value(truth, table)
    by_fold = [
        metric.evaluate(truth, table, group["ImageId"])["mAP"] * truth["ImageId"].isin(group["ImageId"]).sum()
        for _, group in folds.groupby("fold")
    ]
    assert metric.evaluate_folds(truth, table, folds) == pytest.approx(sum(by_fold) / len(truth))


def test_threshold_pays_on_the_leaderboard(truth, views):
    fitted, _ = fit_nested(truth, folds_of(truth, 2), views, "leaderboard")
    submissions = fitted.mAP["submissions"]
    assert submissions["thresholded"]["leaderboard"] > 1.2 * submissions["all"]["leaderboard"]
    assert submissions["thresholded"]["given"] < submissions["all"]["given"]
    assert fitted.mAP["fused"] == submissions["thresholded"]["leaderboard"]


def test_calibration_pays_on_the_leaderboard(truth, views):
    """False cars that one view alone is very sure of: the plain score keeps them, agreement does not."""
    a, b = (views[name].assign(score=0.45) for name in "ab")
    false = a.assign(z=2 * a["z"], x=-2 * a["x"], score=1.0)
    members = {"a": cars.concat([a, false]), "b": b}
    fitted, _ = fit_nested(truth, folds_of(truth, 2), members, "leaderboard")
    assert fitted.parts["calibration"].on
    assert fitted.parts["calibration"].nested_gain > 0.1
    assert fitted.mAP["fused"] > 2 * fitted.mAP["equal_weights"]


@pytest.mark.parametrize(("parts", "score_type"), [([], "plain"), (["calibration"], "calibrated")])
def test_each_type_of_score_has_its_threshold(views, nested, parts, score_type):
    fitted = replace(nested[0], thresholds={"plain": 0.6, "calibrated": 0.3})
    fused = fuse(views, fitted, parts)
    above = fused["above_threshold"].to_numpy(bool)
    assert 0.1 < above.mean() < 0.9
    np.testing.assert_array_equal(above, fused["score"] >= fitted.thresholds[score_type])


def test_fused_score_is_calibrated(truth, views):
    oof = fit(truth, views, folds_of(truth, 2), "given")[1].sort_values("hit")
    parts = np.array_split(np.arange(len(oof)), 5)
    gaps = [abs(oof["hit"].iloc[part].mean() - oof["is_hit"].iloc[part].mean()) for part in parts]
    assert np.mean(gaps) < 0.06


def spoiled(truth, third):
    """Issue's list of what may go wrong with the third of three members."""
    rng = np.random.default_rng(6)
    noise = noisy_view(truth, rng, missed=1, false_cars=8)
    return {
        "noise": noise.assign(score=rng.random(len(noise))),
        "misses half": third[rng.random(len(third)) < 0.5],
        "biased": third.assign(**{axis: third[axis] * 1.15 for axis in cars.POSITION}),
        "roll across the seam": third.assign(roll=third["roll"] + 2 * np.pi),
    }


@pytest.mark.parametrize("damage", ["noise", "misses half", "biased", "roll across the seam"])
def test_a_spoiled_member_costs_no_more_than_to_drop_it(truth, views, two_only, damage):
    three = {**views, "c": spoiled(truth, views["c"])[damage]}
    folds = folds_of(truth, 2)
    assert fit_nested(truth, folds, three, "given")[0].mAP["fused"] > two_only - 0.01


def test_duplicated_members_cost_little(truth, views, nested):
    doubled = {**views, "c2": views["c"], "c3": views["c"]}
    fitted = fit_nested(truth, folds_of(truth, 2), doubled, "given")[0]
    assert fitted.mAP["fused"] > nested[0].mAP["fused"] - 0.02
    assert fitted.members["c2"].correlation_weight < 0.6 < fitted.members["a"].correlation_weight


def test_what_is_fitted_for_a_photo_knows_nothing_of_its_near_duplicates(truth, views):
    """Within a single fold: other labels of some photos change cars of the other half, not their twins."""
    folds = folds_of(truth, 1)
    photos = folds["ImageId"].to_numpy()
    moved = truth.copy()
    moved.loc[moved["ImageId"].isin(photos[:16:4]), cars.POSITION] *= 1.04

    def twins_change(table):
        before, after = (fit(labels, views, table, "given")[1] for labels in (truth, moved))
        before, after = (cars_[cars_["ImageId"].isin(photos[1:16:4])] for cars_ in (before, after))
        return not before.reset_index(drop=True).equals(after.reset_index(drop=True))

    assert twins_change(folds)
    assert not twins_change(folds.assign(group=np.repeat(photos[::2], 2)))


def test_nothing_of_a_fold_is_in_its_own_fit(truth, views, nested):
    """Other labels in fold 0 change fold 1's cars, and leave fold 0's as they are."""
    folds = folds_of(truth, 2)
    moved = truth.copy()
    in_fold = moved["ImageId"].isin(folds.loc[folds["fold"] == 0, "ImageId"])
    moved.loc[in_fold, cars.POSITION] *= 1.02
    before = nested[1]
    after = fit_nested(moved, folds, views, "given")[1]
    same = [table[table["fold"] == 0].reset_index(drop=True) for table in (before, after)]
    pd.testing.assert_frame_equal(*same)
    other = [table[table["fold"] == 1].reset_index(drop=True) for table in (before, after)]
    assert not other[0].equals(other[1])


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("tiny", "given"),
        ("no hit", "leaderboard"),
        ("empty member", "given"),
        ("nothing", "given"),
        ("nothing", "leaderboard"),
        ("no sigma", "given"),
    ],
)
def test_poor_data_do_not_stop_the_fit(case, mode):
    rng = np.random.default_rng(7)
    truth = scene(6, rng, per_image=3)
    members = {name: noisy_view(truth, rng).assign(depth_sigma=0.05) for name in "ab"}
    if case == "no hit":
        members = {name: table.assign(z=table["z"] * 3) for name, table in members.items()}
    if case == "empty member":
        members["b"] = members["b"].iloc[:0]
    if case == "nothing":
        members = {name: table.iloc[:0] for name, table in members.items()}
    if case == "no sigma":
        members["b"]["depth_sigma"] = np.nan
    fitted, fused = fit_nested(truth, folds_of(truth, 2), members, mode)
    json.dumps(asdict(fitted), allow_nan=False)
    assert np.isfinite(fused[[*cars.POSE, "score"]].to_numpy(float)).all()
    assert fused["score"].between(0, 1).all()


def test_a_fit_is_the_same_after_a_file(tmp_path, views, nested):
    fitted, _ = nested
    path = tmp_path / "fusion.json"
    path.write_text(fitted.to_json())
    again = read_fit(path)
    assert again == fitted and again.to_json() == fitted.to_json()
    pd.testing.assert_frame_equal(fuse(views, again), fuse(views, fitted))


def test_a_file_that_is_no_fit_is_named(tmp_path, nested):
    content = json.loads(nested[0].to_json())
    damaged = [
        [],
        {**content, "parts": []},
        {**content, "members": {"a": {**content["members"]["a"], "sigma": "x"}}},
        {**content, "members": {"a": {**content["members"]["a"], "bias": 0.1}}},
        {**content, "unheard_of": 1},
        *({key: value for key, value in content.items() if key != lost} for lost in ("score_model", "used")),
    ]
    path = tmp_path / "bad.json"
    for text in [json.dumps(bad).encode() for bad in damaged] + [bytes([255]) * 5000]:
        path.write_bytes(text)
        with pytest.raises(
            UserError, match="bad.json: not a file of carpose.fuse.fit .*; fit the fusion again"
        ) as error:
            read_fit(path)
        assert len(str(error.value)) < 300


@pytest.fixture
def files(tmp_path, truth, views):
    """What the commands read, in a folder: tables of the views a, b and c, of 80 photos."""
    parquet.write(tmp_path / "folds.parquet", folds_of(truth, 2))
    cars.write(tmp_path / "labels.parquet", truth.assign(model_type=0))
    for name, table in views.items():
        cars.write(tmp_path / f"{name}.parquet", table, image_ids=truth["ImageId"].unique())
    return tmp_path


def fit_command(folder, *more):
    named = [f"round0/{name}={folder / name}.parquet" for name in "abc"]
    tables = ("--labels", folder / "labels.parquet", "--folds", folder / "folds.parquet")
    outputs = ("--output", folder / "fusion.json", "--fused-output", folder / "oof.parquet")
    return run_module("carpose.fuse.fit", *tables, "--members", *named, *outputs, *more, check=False), named


@pytest.mark.parametrize("mode", ["given", "leaderboard"])
def test_command_lines(files, truth, views, mode):
    """Fit, fuse, and the two submissions, each with what it is for."""
    done, named = fit_command(files, "--mode", mode)
    assert done.returncode == 0 and "each fold by a fit on the other folds" in done.stdout
    assert "fold" in cars.read(files / "oof.parquet")
    fitted = ("--fit", files / "fusion.json")
    run_module("carpose.fuse", "--inputs", *named, *fitted, "--output", files / "fused.parquet")
    for name in ("oof", "fused"):
        assert parquet.about(files / f"{name}.parquet")["image_ids"] == truth["ImageId"].unique().tolist()
    table = truth[["ImageId"]].drop_duplicates().assign(split="test", excluded="", phash="")
    parquet.write(files / "images.parquet", table)
    outputs = ("--all-output", files / "all.csv", "--thresholded-output", files / "thresholded.csv")
    more = (*fitted, "--images", files / "images.parquet", *outputs)
    done = run_module("carpose.fuse.write", files / "fused.parquet", *more)
    fused = cars.read(files / "fused.parquet")
    assert value(truth, fused[fused["above_threshold"]], "leaderboard") > value(
        truth, views["a"], "leaderboard"
    )
    for name, expected in (("all", fused), ("thresholded", fused[fused["above_threshold"]])):
        assert len(read_submission(files / f"{name}.csv")[0]) == len(expected) > 0
    of_all, of_kept = done.stdout.splitlines()[-2:]
    scores = json.loads((files / "fusion.json").read_text())["mAP"]["submissions"]
    assert "all.csv: every car" in of_all and of_all.endswith(
        "best for a scoring that ranks cars by confidence"
    )
    assert "thresholded.csv: the cars above the threshold" in of_kept
    assert of_kept.endswith("best for the leaderboard, which ignores confidences")
    for line, name in ((of_all, "all"), (of_kept, "thresholded")):
        assert f"{scores[name]['given']:.4f} given, {scores[name]['leaderboard']:.4f} leaderboard" in line
    cars.write(files / "fused.parquet", fused.drop(columns="above_threshold"))
    failed = run_module("carpose.fuse.write", files / "fused.parquet", *more, check=False)
    assert failed.returncode == 2 and "fused.parquet: column above_threshold is missing" in failed.stderr
    unknown = ("--inputs", f"other={files}/a.parquet", *fitted, "--output", files / "x.csv")
    failed = run_module("carpose.fuse", *unknown, check=False)
    assert failed.returncode == 2 and "other is not a member of the fit" in failed.stderr


def test_predictions_of_other_folds_are_not_fitted_to(files, views):
    cars.write(files / "b.parquet", views["b"], image_ids=[f"ID_{i:05d}" for i in range(78)])
    done, _ = fit_command(files)
    assert done.returncode == 2 and "b.parquet: 2 of 80 photos were not" in done.stderr
    assert "first ID_00078" in done.stderr and "-R predict" in done.stderr
    assert not (files / "fusion.json").exists()


def test_labels_of_other_photos_are_refused(files, truth):
    cars.write(files / "labels.parquet", truth.assign(ImageId=truth["ImageId"] + "_other"))
    done, _ = fit_command(files)
    assert done.returncode == 2 and f"error: {files}/labels.parquet: none of its " in done.stderr
    assert not (files / "fusion.json").exists()


def test_advice_where_no_file_is_better():
    scores = {"given": 0.0004, "leaderboard": 0.0}
    fit = SimpleNamespace(mAP={"submissions": {"all": scores, "thresholded": scores}})
    lines = advice(fit, {"all": "submission.csv", "thresholded": "submission_thresholded.csv"})
    assert lines[1] == "submission.csv: every car, with its confidence: 0.0004 given, 0.0000 leaderboard"
    assert "it does not matter which" in lines[3] and "train for more epochs" in lines[4]
