"""Pseudo labels: roles, precision, no leak between folds, the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars
from carpose.core.errors import UserError
from carpose.pseudo import labels as pseudo
from tests.helpers import folds_of, noisy_view, run_module, scene


def views(truth, seed):
    rng = np.random.default_rng(seed)
    return {
        name: noisy_view(truth, rng, aside=0.004).assign(depth_sigma=0.05)
        for name in ("round0/a", "round0/b")
    }


def with_fold(members, folds):
    """Out-of-fold tables: each image's fold beside its cars."""
    return {name: table.merge(folds, on="ImageId") for name, table in members.items()}


@pytest.fixture(scope="module")
def world():
    """Labels, folds, out-of-fold predictions; hidden truth of other photos and each fold's view of them."""
    rng = np.random.default_rng(0)
    truth = scene(60, rng)
    hidden = scene(60, rng).assign(ImageId=lambda t: "T" + t["ImageId"])
    folds = folds_of(truth, 2)
    per_fold = [views(hidden, seed) for seed in (5, 6)]
    test = {
        name: pd.concat([own[name].assign(fold=fold) for fold, own in enumerate(per_fold)], ignore_index=True)
        for name in per_fold[0]
    }
    return truth, folds, with_fold(views(truth, 4), folds), hidden, test


def make(world, fold=0, mode="soft", positive=0.8, ignore=0.2):
    truth, folds, oof, _, test = world
    return pseudo.make_fold(truth, folds, oof, test, fold, positive, ignore, mode)


def test_roles_and_weights(world):
    table, report = make(world)
    sure = table["role"] == "positive"
    assert set(table["role"]) == {"positive", "ignore"}
    assert (table.loc[~sure, "weight"] == 0).all()
    np.testing.assert_array_equal(table.loc[sure, "weight"], table.loc[sure, "score"])
    assert table.loc[sure, "score"].min() >= report["cut_positive"] > table.loc[~sure, "score"].max()
    assert table["score"].min() >= report["cut_ignore"]
    assert (table["depth_sigma"] > 0).all() and (table["fold"] == 0).all()
    assert (report["positive"], report["ignore"]) == (sure.sum(), (~sure).sum())


def test_hard_labels_weigh_one(world):
    table, _ = make(world, mode="hard")
    assert (table.loc[table["role"] == "positive", "weight"] == 1).all()


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_precision_holds_on_hidden_truth(world, target):
    hidden = world[3]
    table, report = make(world, positive=target)
    positives = table[table["role"] == "positive"]
    precision = metric.match(hidden, positives)[:, 0].mean()
    assert report["target_reached"]
    assert precision > target - 0.05
    assert report["share_of_hits_kept"] > 0.4


def test_scores_are_probabilities(world):
    hidden = world[3]
    table, _ = make(world, ignore=0)
    table = table.sort_values("score", ascending=False)
    assert abs(table["score"].mean() - metric.match(hidden, table)[:, 0].mean()) < 0.05


def test_a_target_out_of_reach_leaves_the_surest_few(world):
    truth, folds, oof, _, test = world
    rng = np.random.default_rng(3)
    blind = {name: table.assign(score=rng.random(len(table))) for name, table in oof.items()}
    blind = {name: table.assign(x=table["x"] + 0.08 * table["z"]) for name, table in blind.items()}
    report = pseudo.make_fold(truth, folds, blind, test, 0, 0.999, 0.2, "soft")[1]
    assert not report["target_reached"]
    assert 0 < report["positive"] < 0.1 * len(pd.concat(test.values()))


def test_a_fold_sees_neither_its_own_labels_nor_other_folds_models(world):
    truth, folds, oof, hidden, test = world
    here = folds.loc[folds["fold"] == 0, "ImageId"]
    labels = truth.copy()
    labels.loc[labels["ImageId"].isin(here), cars.POSITION] *= 1.3
    own_oof = {
        name: table.assign(z=table["z"] * np.where(table["fold"] == 0, 2.0, 1.0))
        for name, table in oof.items()
    }
    foreign = {
        name: table.assign(z=table["z"] * np.where(table["fold"] == 1, 2.0, 1.0))
        for name, table in test.items()
    }
    changed = make((labels, folds, own_oof, hidden, foreign))
    expected = make(world)
    pd.testing.assert_frame_equal(changed[0], expected[0])
    assert changed[1] == expected[1]


@pytest.mark.parametrize("case", ["no predictions", "no test predictions", "no hit", "one car"])
def test_poor_data_give_few_labels_and_no_crash(world, case):
    truth, folds, oof, hidden, test = world
    if case == "no predictions":
        oof, test = ({name: table.iloc[:0] for name, table in part.items()} for part in (oof, test))
    if case == "no test predictions":
        test = {name: table.iloc[:0] for name, table in test.items()}
    if case == "no hit":
        oof = {name: table.assign(z=table["z"] * 3) for name, table in oof.items()}
    if case == "one car":
        oof = {name: table.iloc[:1] for name, table in oof.items()}
    table, report = make((truth, folds, oof, hidden, test))
    json.dumps(report, allow_nan=False)
    assert list(table.columns) == pseudo.COLUMNS
    assert np.isfinite(table[[*cars.POSE, "score", "weight"]].to_numpy(float)).all()


def test_against_truth():
    truth = scene(10, np.random.default_rng(9), per_image=1)
    far = truth.iloc[:1].assign(x=truth["x"] + truth["z"])
    table = pd.concat([truth.iloc[:6], far, truth.iloc[6:8]], ignore_index=True)
    table = table.assign(role=["positive"] * 7 + ["ignore"] * 2, score=0.9)
    found = pseudo.against_truth(truth, table)
    assert found["precision"] == pytest.approx(6 / 7) and found["recall"] == pytest.approx(0.6)
    assert found["ignored_hits"] == 1 and found["as_background"] == pytest.approx(0.2)
    assert pseudo.against_truth(truth, table.iloc[:0])["precision"] is None


def test_drift():
    a = scene(10, np.random.default_rng(9), per_image=1)
    same = pseudo.drift(a, a)
    assert (same["kept"], same["new"], same["median_shift"]) == (1, 0, 0)
    half = pseudo.drift(a, a.iloc[:5].assign(**{axis: a[axis] * 1.05 for axis in cars.POSITION}))
    assert half["kept"] == 0.5 and half["median_shift"] == pytest.approx(0.05)
    assert pseudo.drift(a, a.iloc[:0])["kept"] is None


def test_by_distance():
    table = pd.DataFrame({"z": [10, 30, 30, 100.0]})
    assert list(pseudo.by_distance(table).values()) == [0.25, 0.5, 0, 0.25]


def test_command_line(tmp_path, world):
    truth, folds, oof, hidden, test = world
    hidden.to_parquet(tmp_path / "hidden.parquet")
    truth.assign(model_type=0).to_parquet(tmp_path / "labels.parquet")
    folds.to_parquet(tmp_path / "folds.parquet")
    named = {"fit": [], "test": []}
    for number, name in enumerate(oof):
        for kind, tables in (("fit", oof), ("test", test)):
            cars.write(tmp_path / f"{kind}{number}.parquet", tables[name])
            named[kind].append(f"{name}={tmp_path}/{kind}{number}.parquet")

    def run(round_number, *more, test_members=named["test"], **options):
        return run_module(
            *(
                "carpose.pseudo",
                "--labels",
                tmp_path / "labels.parquet",
                "--folds",
                tmp_path / "folds.parquet",
            ),
            *("--fit-members", *named["fit"], "--test-members", *test_members, "--mode", "soft"),
            *("--precision-positive", 0.8, "--precision-ignore", 0.2, *more),
            *(
                "--output",
                tmp_path / f"{round_number}.parquet",
                "--report",
                tmp_path / f"{round_number}.json",
            ),
            **options,
        )

    run(0)
    run(1, "--previous", tmp_path / "0.parquet", "--test-truth", tmp_path / "hidden.parquet")
    table = cars.read(tmp_path / "1.parquet")
    assert {"fold", "score", "weight", "depth_sigma", "role"} <= set(table) and set(table["fold"]) == {0, 1}
    report = json.loads((tmp_path / "1.json").read_text())
    assert report["folds"]["0"]["drift"] == {"kept": 1.0, "new": 0.0, "median_shift": 0.0}
    assert report["folds"]["0"]["hidden_truth"]["precision"] > 0.75
    assert "hidden_truth" not in json.loads((tmp_path / "0.json").read_text())["folds"]["0"]
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    wrong = run(2, test_members=named["test"][:1], check=False)
    assert wrong.returncode == 2 and "same members" in wrong.stderr


def test_members_need_their_fold(tmp_path):
    cars.write(tmp_path / "a.parquet", scene(2, np.random.default_rng(0)).assign(score=0.5))
    with pytest.raises(UserError, match="no column fold"):
        pseudo._members([f"a={tmp_path}/a.parquet"], "--fit-members")
