"""Fusion: association, means, fits that pay, robustness, the command lines."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from conftest import run_module

from benchmarks import fusion_views
from carpose import UserError, calibration, cars, fuse, fusion_fit, kaggle, metric, rotation
from carpose.clustering import cluster


def scene(images: int, rng: np.random.Generator, per_image: int = 8) -> pd.DataFrame:
    """True cars on a road, roll on both sides of the seam."""
    n = images * per_image
    z = np.exp(rng.uniform(np.log(8), np.log(90), n))
    x = rng.uniform(-0.5, 0.5, n) * z
    angles = np.column_stack(
        [rng.normal(0.15, 0.02, n), rng.uniform(-np.pi, np.pi, n), rng.normal(np.pi, 0.02, n)]
    )
    table = pd.DataFrame(rotation.wrap(angles), columns=cars.ANGLES)
    table.insert(0, "ImageId", np.repeat([f"ID_{i:05d}" for i in range(images)], per_image))
    return table.assign(x=x, y=1.46 + 0.16 * z, z=z)


def folds_of(truth: pd.DataFrame, count: int) -> pd.DataFrame:
    images = truth["ImageId"].unique()
    return pd.DataFrame({"ImageId": images, "fold": np.arange(len(images)) % count})


def value(truth, table, **options):
    return metric.evaluate(truth, table, truth["ImageId"].unique(), **options)["mAP"]


@pytest.fixture(scope="module")
def truth():
    return scene(80, np.random.default_rng(0))


@pytest.fixture(scope="module")
def views(truth):
    rng = np.random.default_rng(1)
    return {name: fusion_views.noisy_view(truth, rng, aside=0.004) for name in "abc"}


@pytest.fixture(scope="module")
def nested(truth, views):
    return fusion_fit.fit_nested(truth, folds_of(truth, 2), views, "given")


@pytest.fixture(scope="module")
def two_only(truth, views):
    """mAP of the fusion without the third member."""
    two = {name: views[name] for name in "ab"}
    return fusion_fit.fit_nested(truth, folds_of(truth, 2), two, "given")[0]["mAP"]["fused"]


def car(image="ID_a", x=0.0, y=3.0, z=30.0, yaw=0.3, roll=3.1, score=0.5, **more):
    return pd.DataFrame(
        [dict(ImageId=image, pitch=0.15, yaw=yaw, roll=roll, x=x, y=y, z=z, score=score, **more)]
    )


# Association


def directions(rng, count, spread):
    """Unit vectors about the camera's axis."""
    drawn = rng.normal([0, 0, 1], spread, (count, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_a_cluster_holds_one_car_of_a_member_and_cars_of_one_image():
    rng = np.random.default_rng(2)
    n = 600
    image, member = rng.integers(0, 20, n), rng.integers(0, 5, n)
    direction = directions(rng, n, 0.02)
    tolerance = np.full(n, 0.05)
    labels = cluster(image, member, direction, rng.normal(3, 0.05, n), tolerance, tolerance, rng.random(n))
    assert labels.min() == 0 and set(labels) == set(range(labels.max() + 1))
    assert not pd.DataFrame({"label": labels, "member": member}).duplicated().any()
    assert pd.Series(image).groupby(labels).nunique().max() == 1
    assert labels.max() + 1 < 300  # and cars do come together


def literal_cluster(image, member, direction, log_range, along, across, priority, recentre):
    """What carpose.clustering.cluster says it does, a car at a time → the sets of cars."""

    def take(seed, free, towards, log, along2, across2):
        best = {}
        for j in free:
            apart = (log_range[j] - log) ** 2 / (along[j] ** 2 + along2)
            apart += ((direction[j] - towards) ** 2).sum() / (across[j] ** 2 + across2)
            if image[j] == image[seed] and member[j] != member[seed] and apart < 1:
                best[member[j]] = min(best.get(member[j], (np.inf, -1)), (apart, j))
        return [seed, *(j for _, j in best.values())]

    free, found = set(range(len(image))), set()
    while free:
        seed = max(free, key=lambda j: priority[j])
        taken = take(seed, free, direction[seed], log_range[seed], along[seed] ** 2, across[seed] ** 2)
        if recentre:
            towards = direction[taken].sum(axis=0)
            log = np.average(log_range[taken], weights=along[taken] ** -2)
            along2, across2 = 1 / (along[taken] ** -2).mean(), (across[taken] ** 2).mean()
            taken = take(seed, free, towards / np.linalg.norm(towards), log, along2, across2)
        found.add(frozenset(taken))
        free -= set(taken)
    return found


@pytest.mark.parametrize("recentre", [True, False])
@pytest.mark.parametrize("spread", [0.03, 0.3, 1.0])  # of the directions, radians: crowded to sparse
def test_clusters_are_those_of_a_loop_over_cars(spread, recentre):
    rng = np.random.default_rng(4)
    n = 250
    image, member = rng.integers(0, 4, n), rng.integers(0, 5, n)
    direction = directions(rng, n, spread)  # some behind the camera
    log_range, along, across = rng.normal(3, 0.2, n), rng.uniform(0.01, 0.3, n), rng.uniform(0.005, 0.1, n)
    given = image, member, direction, log_range, along, across, rng.random(n), recentre
    labels = cluster(*given)
    found = {frozenset(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)}
    assert found == literal_cluster(*given)
    assert len(found) < n


def test_crowded_is_the_nearest_stronger_car_of_the_image():
    rng = np.random.default_rng(5)
    n = 300
    image, log_range = rng.integers(0, 6, n), rng.normal(3, 0.2, n)
    direction = directions(rng, n, 0.1)
    strength = rng.random(n).round(1)  # of two that are alike the first is the stronger
    position, expected = direction * np.exp(log_range)[:, None], np.zeros(n)
    for i in range(n):
        for j in range(n):
            if image[i] == image[j] and (-strength[j], j) < (-strength[i], i):
                apart = np.linalg.norm(position[i] - position[j]) / np.exp(log_range[i])
                expected[i] = max(expected[i], 1 - apart / 0.1)
    assert (expected > 0).sum() > 50
    np.testing.assert_allclose(fuse._crowded(image, direction, log_range, strength), expected, atol=1e-12)


def test_depth_may_err_more_than_direction():
    far_along = fuse.fuse({"a": car(), "b": car(x=0.0, y=3.0 * 1.12, z=30.0 * 1.12)})
    far_aside = fuse.fuse({"a": car(), "b": car(x=30.0 * 0.12)})
    assert len(far_along) == 1 and far_along["agreement"][0] == 2
    assert len(far_aside) == 2


def test_result_does_not_depend_on_row_order(views):
    shuffled = {name: table.sample(frac=1, random_state=3) for name, table in views.items()}
    a, b = fuse.fuse(views), fuse.fuse(shuffled)
    np.testing.assert_allclose(a[cars.POSITION], b[cars.POSITION], rtol=1e-9)


# Means


def test_one_member_is_itself(views):
    fused = fuse.fuse({"a": views["a"]})
    order = ["ImageId", "score", "x"]
    expected = views["a"].sort_values(order).reset_index(drop=True)
    fused = fused.sort_values(order).reset_index(drop=True)
    assert (fused["ImageId"] == expected["ImageId"]).all()
    np.testing.assert_allclose(
        fused[[*cars.POSITION, "score"]], expected[[*cars.POSITION, "score"]], rtol=1e-9
    )
    turn = rotation.distance(*(rotation.quaternion(t[cars.ANGLES].to_numpy()) for t in (fused, expected)))
    assert turn.max() < 1e-6


def test_roll_on_both_sides_of_the_seam():
    fused = fuse.fuse({"a": car(roll=np.pi - 0.02), "b": car(roll=-np.pi + 0.02)})
    assert abs(abs(fused["roll"][0]) - np.pi) < 1e-6


def test_one_back_to_front_is_outvoted():
    fused = fuse.fuse({"a": car(yaw=0.3), "b": car(yaw=0.3), "c": car(yaw=0.3 + np.pi, score=0.6)})
    assert len(fused) == 1 and abs(fused["yaw"][0] - 0.3) < 1e-6


def test_depth_is_weighted_by_its_uncertainty():
    sure, unsure = car(depth_sigma=0.02), car(y=3.3, z=33.0, depth_sigma=0.2)
    fused = fuse.fuse({"a": sure, "b": unsure})
    expected = (np.log(30) / 0.02**2 + np.log(33) / 0.2**2) / (1 / 0.02**2 + 1 / 0.2**2)
    assert np.log(fused["z"][0]) == pytest.approx(expected)
    assert 0.015 < fused["depth_sigma"][0] < 0.025


def test_unknown_uncertainty_is_the_default():
    fused = fuse.fuse({"a": car(depth_sigma=np.nan), "b": car(y=3.3, z=33.0)})
    assert np.log(fused["z"][0]) == pytest.approx((np.log(30) + np.log(33)) / 2)
    assert fused["depth_sigma"][0] == pytest.approx(fuse.SIGMA / np.sqrt(2), rel=0.3)


def test_empty_members():
    none = cars.empty([*cars.POSE, "score"])
    assert len(fuse.fuse({"a": none, "b": none})) == 0
    assert len(fuse.fuse({"a": none, "b": car()})) == 1


# Calibration


def test_logistic_finds_the_law():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(20000, 2))
    probability = calibration.sigmoid(1 + 2 * features[:, 0])
    model = calibration.fit_logistic(features, (rng.random(20000) < probability).astype(float))
    assert np.abs(calibration.predict_logistic(model, features) - probability).max() < 0.05


@pytest.mark.parametrize("target", [np.zeros(5), np.ones(5), np.zeros(0)])
def test_logistic_without_contrast_stays_finite(target):
    model = calibration.fit_logistic(np.ones((len(target), 3)), target)
    assert np.isfinite(calibration.predict_logistic(model, np.ones((2, 3)))).all()


def test_cuts():
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False])
    assert calibration.cut_for_precision(scores, hits, 0.6, 0.25) == 0.7
    assert calibration.cut_for_precision(scores, ~hits, 0.9, 0.25) == 0.9  # not reached: the highest quarter
    assert calibration.cut_for_probability(scores, hits, 0.5) == 0.8
    assert calibration.cut_for_probability(scores, hits & False, 0.5) == np.inf


# Fits


def test_fused_beats_members_and_baselines(truth, views, nested):
    best = max(value(truth, table) for table in views.values())
    fit, fused = nested
    ours = value(truth, fused)
    assert fit["mAP"]["fused"] == pytest.approx(ours)
    assert ours > 1.3 * best
    for baseline in (fusion_views.concatenate, fusion_views.concatenate_nms, fusion_views.linear_average):
        assert ours > 1.1 * value(truth, baseline(views))


def test_nested_gains_add_up(truth, views, nested):
    fit, _ = nested
    whole = sum(part["nested_gain"] for part in fit["parts"].values())
    assert whole == pytest.approx(fit["mAP"]["fused"] - fit["mAP"]["equal_weights"])
    assert fit["mAP"]["equal_weights"] == pytest.approx(value(truth, fuse.fuse(views)))


def test_weights_and_bias_pay_where_members_differ(truth):
    rng = np.random.default_rng(5)
    members = {
        "good": fusion_views.noisy_view(truth, rng, depth_noise=0.03),
        "biased": fusion_views.noisy_view(truth, rng, depth_noise=0.04, depth_bias=0.06),
        "poor": fusion_views.noisy_view(truth, rng, depth_noise=0.1),
    }
    fit, _ = fusion_fit.fit_nested(truth, folds_of(truth, 2), members, "given")
    for part in ("bias", "weights"):
        assert fit["parts"][part]["on"] and fit["parts"][part]["nested_gain"] > 0.01
    assert fit["members"]["biased"]["bias"][0] == pytest.approx(0.06, abs=0.015)
    assert fit["members"]["poor"]["sigma"] > 2 * fit["members"]["good"]["sigma"]
    assert fit["mAP"]["fused"] > fit["mAP"]["equal_weights"] + 0.05


def test_members_that_drag_the_others_down_are_left_out(truth, views):
    """Worse copies of one member share its errors and add their own: nothing can be learnt from them."""

    def copy(seed):
        rng, table = np.random.default_rng(seed), views["a"].copy()
        table[cars.POSITION] *= np.exp(rng.normal(0, 0.2, (len(table), 1)))
        return table.assign(score=np.clip(table["score"] + rng.normal(0, 0.3, len(table)), 0.01, 1))

    members = {"a": views["a"]} | {f"copy{seed}": copy(seed) for seed in range(3)}
    fit, fused = fusion_fit.fit_nested(truth, folds_of(truth, 2), members, "given")
    assert fit["parts"]["members"]["on"] and fit["used"] == ["a"]
    assert value(truth, fused) > 0.97 * value(truth, views["a"])
    # The fit is for all members; those left out do not reach the result.
    pd.testing.assert_frame_equal(fuse.fuse(members, fit), fuse.fuse({"a": views["a"]}, fit))


def test_ground_pays_where_there_is_one(nested):
    fit, _ = nested
    assert fit["parts"]["ground"]["on"] and fit["parts"]["ground"]["nested_gain"] > 0.01
    assert fit["ground"]["mean"] == pytest.approx([0, 0.16, 1.46], abs=0.02)


def test_ground_is_left_out_where_cars_are_at_any_height(truth):
    rng = np.random.default_rng(4)
    afloat = truth.assign(y=truth["y"] * rng.uniform(-1, 1, len(truth)))
    members = {name: fusion_views.noisy_view(afloat, rng, aside=0.004) for name in "ab"}
    fit, _ = fusion_fit.fit_nested(afloat, folds_of(afloat, 2), members, "given")
    assert fit["parts"]["ground"]["gain"] < 0.005


def test_threshold_pays_with_equal_confidences(truth, views):
    fit, _ = fusion_fit.fit_nested(truth, folds_of(truth, 2), views, "equal")
    assert fit["parts"]["threshold"]["on"]
    assert fit["mAP"]["fused"] > 1.2 * fit["mAP"]["equal_weights"]


def test_calibration_pays_with_equal_confidences(truth, views):
    """False cars that one view alone is very sure of: the plain score keeps them, agreement does not."""
    a, b = (views[name].assign(score=0.45) for name in "ab")
    false = a.assign(z=2 * a["z"], x=-2 * a["x"], score=1.0)
    members = {"a": cars.concat([a, false]), "b": b}
    fit, _ = fusion_fit.fit_nested(truth, folds_of(truth, 2), members, "equal")
    assert fit["parts"]["calibration"]["on"] and fit["parts"]["threshold"]["on"]
    assert fit["parts"]["calibration"]["nested_gain"] > 0.1
    assert fit["mAP"]["fused"] > 2 * fit["mAP"]["equal_weights"]


def test_fused_score_is_calibrated(truth, views):
    fit = fusion_fit.fit(truth, views, truth["ImageId"].unique(), np.arange(80) % 2, "given")
    inner = fit["inner"].sort_values("hit")
    parts = np.array_split(np.arange(len(inner)), 5)
    gaps = [abs(inner["hit"].iloc[part].mean() - inner["did"].iloc[part].mean()) for part in parts]
    assert np.mean(gaps) < 0.06


def spoiled(truth, third):
    """Issue's list of what may go wrong with the third of three members."""
    rng = np.random.default_rng(6)
    noise = fusion_views.noisy_view(truth, rng, missed=1, false_cars=8)
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
    assert fusion_fit.fit_nested(truth, folds, three, "given")[0]["mAP"]["fused"] > two_only - 0.01


def test_duplicated_members_cost_little(truth, views, nested):
    doubled = {**views, "c2": views["c"], "c3": views["c"]}
    fit = fusion_fit.fit_nested(truth, folds_of(truth, 2), doubled, "given")[0]
    assert fit["mAP"]["fused"] > nested[0]["mAP"]["fused"] - 0.02
    assert fit["members"]["c2"]["share"] < 0.6 < fit["members"]["a"]["share"]


def test_nothing_of_a_fold_is_in_its_own_fit(truth, views, nested):
    """Other labels in fold 0 change fold 1's cars, and leave fold 0's as they are."""
    folds = folds_of(truth, 2)
    moved = truth.copy()
    own = moved["ImageId"].isin(folds.loc[folds["fold"] == 0, "ImageId"])
    moved.loc[own, cars.POSITION] *= 1.08
    before = nested[1]
    after = fusion_fit.fit_nested(moved, folds, views, "given")[1]
    same = [table[table["fold"] == 0].reset_index(drop=True) for table in (before, after)]
    pd.testing.assert_frame_equal(*same)
    other = [table[table["fold"] == 1].reset_index(drop=True) for table in (before, after)]
    assert not other[0].equals(other[1])


@pytest.mark.parametrize("mode", ["given", "equal"])
@pytest.mark.parametrize("case", ["tiny", "no hit", "empty member", "nothing", "no sigma"])
def test_poor_data_do_not_stop_the_fit(case, mode):
    rng = np.random.default_rng(7)
    truth = scene(6, rng, per_image=3)
    members = {name: fusion_views.noisy_view(truth, rng).assign(depth_sigma=0.05) for name in "ab"}
    if case == "no hit":
        members = {name: table.assign(z=table["z"] * 3) for name, table in members.items()}
    if case == "empty member":
        members["b"] = members["b"].iloc[:0]
    if case == "nothing":
        members = {name: table.iloc[:0] for name, table in members.items()}
    if case == "no sigma":
        members["b"]["depth_sigma"] = np.nan
    fit, fused = fusion_fit.fit_nested(truth, folds_of(truth, 2), members, mode)
    json.dumps(fit, allow_nan=False)
    assert np.isfinite(fused[[*cars.POSE, "score"]].to_numpy(float)).all()
    assert fused["score"].between(0, 1).all()


# Speed and command lines


def test_thirty_members_of_the_whole_test_set_in_seconds():
    rng = np.random.default_rng(8)
    truth = scene(2021, rng, per_image=6)
    view = fusion_views.noisy_view(truth, rng, aside=0.005)
    members = {}
    for number in range(30):
        factor = np.exp(rng.normal(0, 0.05, len(view)))
        members[str(number)] = view.assign(**{axis: view[axis] * factor for axis in cars.POSITION})
    start = time.process_time()
    fused = fuse.fuse(members)
    assert time.process_time() - start < 20  # about 5 on an idle core
    assert fused["agreement"].max() == 30


def test_command_lines(tmp_path, truth, views):
    folds = folds_of(truth, 2)
    folds.to_parquet(tmp_path / "folds.parquet")
    truth.assign(model_type=0).to_parquet(tmp_path / "labels.parquet")
    named = []
    for name, table in views.items():
        cars.write(tmp_path / f"{name}.parquet", table)
        named.append(f"round0/{name}={tmp_path / name}.parquet")
    done = run_module(
        *(
            "carpose.fusion_fit",
            "--labels",
            tmp_path / "labels.parquet",
            "--folds",
            tmp_path / "folds.parquet",
        ),
        *("--members", *named, "--mode", "equal"),
        *("--output", tmp_path / "fusion.json", "--fused-output", tmp_path / "oof.parquet"),
    )
    assert "fused, fitted on the other folds" in done.stdout
    assert "fold" in cars.read(tmp_path / "oof.parquet")
    fit = ("--weights", tmp_path / "fusion.json")
    run_module("carpose.fuse", "--inputs", *named, *fit, "--output", tmp_path / "out.parquet")
    fused = cars.read(tmp_path / "out.parquet")
    assert value(truth, fused, equal_confidence=True) > value(truth, views["a"], equal_confidence=True)
    wrong = run_module(
        *("carpose.fuse", "--inputs", f"other={tmp_path}/a.parquet", *fit, "--output", tmp_path / "x.csv"),
        check=False,
    )
    assert wrong.returncode == 2 and "other" in wrong.stderr


def test_plain_submissions(tmp_path, truth, views):
    images = sorted(truth["ImageId"].unique()) + ["ID_without_cars"]
    for name, table in views.items():
        kaggle.write_submission(tmp_path / f"{name}.csv", table, images)
    inputs = [tmp_path / f"{name}.csv" for name in views]
    run_module("carpose.fuse", "--inputs", *inputs, "--output", tmp_path / "out.csv")
    fused, order = kaggle.read_submission(tmp_path / "out.csv")
    assert order == images
    assert value(truth, fused) > 1.3 * max(value(truth, table) for table in views.values())


def test_a_fit_that_uses_none_of_the_members_is_no_fit_for_them(views):
    names = ["a", "b"]
    fit = fuse.equal_fit(names) | {"used": ["b"], "parts": {"members": {"on": True}}}
    assert len(fuse.fuse({name: views[name] for name in names}, fit))
    with pytest.raises(UserError, match="the fit leaves out a and uses b, which are not given"):
        fuse.fuse({"a": views["a"]}, fit)


def test_errors_name_what_to_do(tmp_path, views):
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(UserError, match="fit it again"):
        fuse.read_fit(tmp_path / "bad.json")
    known = {"members": {"a": dict(fuse.NEUTRAL)}, "parts": {"calibration": {"on": True}}}
    fit = known | dict.fromkeys(["used", "gate", "ground", "score", "threshold"])
    for change in ({"parts": []}, {"members": {"a": {**fuse.NEUTRAL, "sigma": "x"}}}, {"score": ...}):
        bad = {key: value for key, value in (fit | change).items() if value is not ...}
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(UserError, match="bad.json: not a fit of carpose.fusion_fit"):
            fuse.read_fit(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(bytes([255]) * 5000)
    with pytest.raises(UserError, match="bad.json: not a fit") as error:
        fuse.read_fit(tmp_path / "bad.json")
    assert len(str(error.value)) < 300
    cars.write(tmp_path / "a.parquet", views["a"])
    for argument in ("=a.parquet", "a="):
        with pytest.raises(UserError, match="give each member as NAME=PATH"):
            fuse.read_members([argument])
    with pytest.raises(UserError, match="two members are called a"):
        fuse.read_members([f"{tmp_path}/a.parquet", f"a={tmp_path}/a.parquet"])
    cars.write(tmp_path / "labels.parquet", views["a"].drop(columns="score"))
    with pytest.raises(UserError, match="no column score"):
        fuse.read_member(tmp_path / "labels.parquet")


# Real truth


def test_three_views_of_real_cars(real):
    labels, image_ids = kaggle.read_labels(real / "train.csv")
    rng = np.random.default_rng(0)
    truth = labels[labels["ImageId"].isin(rng.choice(image_ids, 300, replace=False))]
    views = {name: fusion_views.noisy_view(truth, rng) for name in "abc"}
    assert value(truth, fuse.fuse(views)) > 0.63


def test_nearly_equal_photos_are_fused_together(truth):
    """Two photos of the same cars; the second misses some and sees one more; a third is another scene."""
    rng = np.random.default_rng(3)
    seen = truth[truth["ImageId"] == "ID_00000"]
    first = seen.assign(score=0.8, depth_sigma=0.05)
    first[cars.POSITION] *= np.exp(rng.normal(0, 0.03, len(seen)))[:, None]
    second = seen.iloc[2:].assign(score=0.8, depth_sigma=0.05, ImageId="ID_twin")
    second[cars.POSITION] *= np.exp(rng.normal(0, 0.03, len(second)))[:, None]
    alone = truth[truth["ImageId"] == "ID_00001"].assign(score=0.8, depth_sigma=0.05)
    table = fuse.fuse({"a": cars.concat([first, second, alone])})
    groups = pd.Series({"ID_00000": 0, "ID_twin": 0, "ID_00001": 1})
    found = fuse.fuse_duplicates(table, groups, sure=0.5)

    pd.testing.assert_frame_equal(
        *(part[part["ImageId"] == "ID_00001"].reset_index(drop=True) for part in (found, table))
    )
    one, other = (found[found["ImageId"] == name].reset_index(drop=True) for name in ("ID_00000", "ID_twin"))
    pd.testing.assert_frame_equal(one.drop(columns="ImageId"), other.drop(columns="ImageId"))
    assert len(one) == len(seen)
    assert one["score"].to_numpy() == pytest.approx([0.8] * (len(seen) - 2) + [0.4] * 2)
    assert one["sure"].sum() == len(seen) - 2
    # Depth is the mean of both views, on the logarithm.
    expected = np.sqrt(
        np.linalg.norm(first[cars.POSITION].iloc[2:], axis=1) * np.linalg.norm(second[cars.POSITION], axis=1)
    )
    got = np.linalg.norm(one[cars.POSITION].to_numpy(float)[:-2], axis=1)
    assert np.sort(got) == pytest.approx(np.sort(expected))


def test_a_photo_without_cars_speaks_against_its_twin_s(truth):
    seen = truth[truth["ImageId"] == "ID_00000"].assign(score=0.8)
    found = fuse.fuse_duplicates(fuse.fuse({"a": seen}), pd.Series({"ID_00000": 0, "ID_empty": 0}), sure=0.5)
    assert set(found["ImageId"]) == {"ID_00000", "ID_empty"}
    assert found["score"].to_numpy() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "fused.txt"), "fused.txt: .txt is no format; name it .csv or .parquet"),
        (("--output", "fused"), "fused: no suffix is no format; name it .csv or .parquet"),
        (("--output", "folder.csv"), "folder.csv: is a folder; name a file"),
        (("--output", "a.csv/fused.csv"), "a.csv: File exists"),
        (("--images", "nowhere.parquet"), "nowhere.parquet: there is no such file"),
        (("--images", "a.csv"), "a.csv: not a readable Parquet table"),
        (("--inputs", "nowhere.parquet"), "nowhere.parquet: there is no such file"),
        (("--inputs", "behind.csv"), "behind.csv, line 2, image ID_a: a car is not in front of the camera"),
        (("--inputs", "behind.parquet"), "behind.parquet, image ID_a: a car is not in front of the camera"),
        (("--weights", "nowhere.json"), "nowhere.json: there is no such file"),
        (("--weights", "fit.json"), "fit.json: not a fit of carpose.fusion_fit (KeyError: 'bias'); fit it"),
    ],
)
def test_what_fuse_cannot_read_or_write(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "fit.json").write_text('{"members": {"a": {}}, "gate": {}, "parts": {}}')
    kaggle.write_submission("a.csv", car(), ["ID_a"])
    kaggle.write_submission("behind.csv", car(z=-30.0), ["ID_a"])
    cars.write("behind.parquet", car(z=-30.0))
    defaults = {"--inputs": "a.csv", "--output": "fused.csv"} | dict([options])
    command = [word for pair in defaults.items() for word in pair]
    done = run_module("carpose.fuse", *command, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "fused.csv").exists()
