"""Pseudo labels: roles, precision, no leak between folds, the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.config.sections import Pseudo
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.pseudo.__main__ import read_with_fold
from carpose.pseudo.labels import COLUMNS, by_distance, compare_with_truth, drift, make_fold
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
        name: cars.concat([part[name].assign(fold=fold) for fold, part in enumerate(per_fold)])
        for name in per_fold[0]
    }
    return truth, folds, with_fold(views(truth, 4), folds), hidden, test


def make(world, fold=0, mode="soft", positive=0.8, ignore=0.2):
    truth, folds, oof, _, test = world
    return make_fold(truth, folds, oof, test, fold, Pseudo(mode, positive, ignore))


def test_roles_and_weights(world):
    table, report = make(world)
    positive = table["role"] == "positive"
    assert set(table["role"]) == {"positive", "ignore"}
    assert (table.loc[~positive, "weight"] == 0).all()
    np.testing.assert_array_equal(table.loc[positive, "weight"], table.loc[positive, "score"])
    assert (
        table.loc[positive, "score"].min()
        >= report["threshold_positive"]
        > table.loc[~positive, "score"].max()
    )
    assert table["score"].min() >= report["threshold_ignore"]
    assert (table["depth_sigma"] > 0).all() and (table["fold"] == 0).all()
    assert (report["positive"], report["ignore"]) == (positive.sum(), (~positive).sum())


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
    report = make_fold(truth, folds, blind, test, 0, Pseudo("soft", 0.999, 0.2))[1]
    assert not report["target_reached"]
    assert 0 < report["positive"] < 0.1 * len(pd.concat(test.values()))


def test_a_fold_sees_neither_its_own_labels_nor_other_folds_models(world):
    truth, folds, oof, hidden, test = world
    fold_ids = folds.loc[folds["fold"] == 0, "ImageId"]
    labels = truth.copy()
    labels.loc[labels["ImageId"].isin(fold_ids), cars.POSITION] *= 1.3
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
    assert list(table.columns) == COLUMNS
    assert np.isfinite(table[[*cars.POSE, "score", "weight"]].to_numpy(float)).all()


def test_compare_with_truth():
    truth = scene(10, np.random.default_rng(9), per_image=1)
    far = truth.iloc[:1].assign(x=truth["x"] + truth["z"])
    table = pd.concat([truth.iloc[:6], far, truth.iloc[6:8]], ignore_index=True)
    table = table.assign(role=["positive"] * 7 + ["ignore"] * 2, score=0.9)
    measures = compare_with_truth(truth, table)
    assert measures["precision"] == pytest.approx(6 / 7) and measures["recall"] == pytest.approx(0.6)
    assert measures["ignored_hits"] == 1 and measures["as_background"] == pytest.approx(0.2)
    assert compare_with_truth(truth, table.iloc[:0])["precision"] is None


def test_drift():
    a = scene(10, np.random.default_rng(9), per_image=1)
    same = drift(a, a)
    assert (same["kept"], same["new"], same["median_shift"]) == (1, 0, 0)
    half = drift(a, a.iloc[:5].assign(**{axis: a[axis] * 1.05 for axis in cars.POSITION}))
    assert half["kept"] == 0.5 and half["median_shift"] == pytest.approx(0.05)
    assert drift(a, a.iloc[:0])["kept"] is None


def test_by_distance():
    table = pd.DataFrame({"z": [10, 30, 30, 100.0]})
    assert list(by_distance(table).values()) == [0.25, 0.5, 0, 0.25]


@pytest.fixture
def files(tmp_path, world):
    """The world as files: a function that runs the command on them."""
    truth, folds, oof, hidden, test = world
    cars.write(tmp_path / "hidden.parquet", hidden)
    cars.write(tmp_path / "labels.parquet", truth.assign(model_type=0))
    parquet.write(tmp_path / "folds.parquet", folds)
    named = {"fit": [], "test": []}
    for number, name in enumerate(oof):
        for kind, tables, images in (("fit", oof, folds), ("test", test, hidden)):
            path = tmp_path / f"{kind}{number}.parquet"
            cars.write(path, tables[name], image_ids=images["ImageId"].unique())
            named[kind].append(f"{name}={path}")

    def run(name, *more, test_members=named["test"], **options):
        tables = ("--labels", tmp_path / "labels.parquet", "--folds", tmp_path / "folds.parquet")
        members = ("--fit-members", *named["fit"], "--test-members", *test_members)
        precisions = ("--mode", "soft", "--precision-positive", 0.8, "--probability-ignore", 0.2)
        outputs = ("--output", tmp_path / f"{name}.parquet", "--report", tmp_path / f"{name}.json")
        return run_module("carpose.pseudo", *tables, *members, *precisions, *outputs, *more, **options)

    return tmp_path, run


def test_command_line(files, world):
    folder, run = files
    run(0)
    run(1, "--previous", folder / "0.parquet", "--test-truth", folder / "hidden.parquet")
    table = cars.read(folder / "1.parquet")
    assert {"fold", "score", "weight", "depth_sigma", "role"} <= set(table) and set(table["fold"]) == {0, 1}
    assert parquet.about(folder / "1.parquet")["image_ids"] == world[3]["ImageId"].unique().tolist()
    report = json.loads((folder / "1.json").read_text())
    assert report["folds"]["0"]["drift"] == {"kept": 1.0, "new": 0.0, "median_shift": 0.0}
    assert report["folds"]["0"]["hidden_truth"]["precision"] > 0.75
    assert "hidden_truth" not in json.loads((folder / "0.json").read_text())["folds"]["0"]
    pd.testing.assert_frame_equal(cars.read(folder / "0.parquet"), table)


def test_members_must_be_the_same_and_cover_the_folds(files, world):
    folder, run = files
    wrong = run(2, test_members=[f"round0/a={folder}/test0.parquet"], check=False)
    assert wrong.returncode == 2 and "same members" in wrong.stderr
    _, folds, oof, _, _ = world
    cars.write(folder / "fit0.parquet", oof["round0/a"], image_ids=folds["ImageId"][1:])
    wrong = run(2, check=False)
    assert wrong.returncode == 2 and "fit0.parquet: 1 of 60 photos were not" in wrong.stderr


def test_test_members_have_the_networks_of_all_folds(files, world):
    """A fold without any would get no labels, and would learn that all test photos are empty."""
    folder, run = files
    table = world[4]["round0/a"]
    ids = table["ImageId"].unique()
    cars.write(folder / "test0.parquet", table[table["fold"] == 0], image_ids=ids, folds=[0])
    wrong = run(2, check=False)
    assert (
        wrong.returncode == 2
        and "test0.parquet: has predictions of the networks of folds 0 instead of 0, 1" in wrong.stderr
    )
    cars.write(folder / "test0.parquet", table.assign(fold=table["fold"] + 1), image_ids=ids)
    wrong = run(2, check=False)
    assert wrong.returncode == 2 and "of folds 0, 1, 2 instead of 0, 1" in wrong.stderr
    assert not (folder / "2.parquet").exists()
    cars.write(folder / "test0.parquet", table[table["fold"] == 0], image_ids=ids, folds=[0, 1])
    run(2)
    assert parquet.about(folder / "2.parquet")["folds"] == [0, 1]


def test_members_need_their_fold(tmp_path):
    cars.write(tmp_path / "a.parquet", scene(2, np.random.default_rng(0)).assign(score=0.5))
    with pytest.raises(UserError, match="column fold is missing"):
        read_with_fold([f"a={tmp_path}/a.parquet"], "--fit-members")


@pytest.mark.parametrize("file, other", [("labels", "hidden"), ("hidden", "labels")])
def test_true_cars_of_other_photos_are_refused(files, file, other):
    folder, run = files
    cars.write(folder / f"{file}.parquet", cars.read(folder / f"{other}.parquet").assign(model_type=0))
    wrong = run(3, "--test-truth", folder / "hidden.parquet", check=False)
    assert wrong.returncode == 2 and f"error: {folder}/{file}.parquet: none of its" in wrong.stderr
    assert not (folder / "3.parquet").exists()
