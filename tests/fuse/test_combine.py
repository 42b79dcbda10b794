"""Fused cars: association in metres, means of poses, robustness, speed; the command line."""

import time

import numpy as np
import pandas as pd
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.fuse.combine import fuse, fuse_with_missing
from carpose.fuse.fitted import NEUTRAL, Fit, Part
from carpose.geometry import rotation
from carpose.geometry.ground import DEFAULT_SIGMA
from carpose.kaggle.submission import write_sample, write_submission
from carpose.kaggle.tables import read_labels, read_submission
from tests.fuse.conftest import value
from tests.helpers import noisy_view, run_module, scene


def car(image="ID_a", x=0.0, y=3.0, z=30.0, yaw=0.3, roll=3.1, score=0.5, **more):
    return pd.DataFrame(
        [dict(ImageId=image, pitch=0.15, yaw=yaw, roll=roll, x=x, y=y, z=z, score=score, **more)]
    )


def test_depth_may_err_more_than_direction():
    far_along = fuse({"a": car(), "b": car(x=0.0, y=3.0 * 1.12, z=30.0 * 1.12)})
    far_aside = fuse({"a": car(), "b": car(x=30.0 * 0.12)})
    assert len(far_along) == 1 and far_along["agreement"][0] == 2
    assert len(far_aside) == 2


def test_result_does_not_depend_on_row_order(views):
    shuffled = {name: table.sample(frac=1, random_state=3) for name, table in views.items()}
    a, b = fuse(views), fuse(shuffled)
    np.testing.assert_allclose(a[cars.POSITION], b[cars.POSITION], rtol=1e-9)


def test_one_member_is_itself(views):
    fused = fuse({"a": views["a"]})
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
    fused = fuse({"a": car(roll=np.pi - 0.02), "b": car(roll=-np.pi + 0.02)})
    assert abs(abs(fused["roll"][0]) - np.pi) < 1e-6


def test_one_back_to_front_is_outvoted():
    fused = fuse({"a": car(yaw=0.3), "b": car(yaw=0.3), "c": car(yaw=0.3 + np.pi, score=0.6)})
    assert len(fused) == 1 and abs(fused["yaw"][0] - 0.3) < 1e-6


@pytest.mark.parametrize("off", [0.0, 0.5, -1.0])
def test_a_car_of_the_other_side_does_not_turn_the_mean(off):
    """Though it need not be exactly back to front."""
    agreeing = {"a": car(yaw=0.3), "b": car(yaw=0.4)}
    fused = fuse(agreeing | {"c": car(yaw=0.35 + np.pi + off)})
    assert len(fused) == 1
    np.testing.assert_allclose(fused[cars.ANGLES], fuse(agreeing)[cars.ANGLES], atol=1e-9)


def test_depth_is_weighted_by_its_uncertainty():
    precise, vague = car(depth_sigma=0.02), car(y=3.3, z=33.0, depth_sigma=0.2)
    fused = fuse({"a": precise, "b": vague})
    expected = (np.log(30) / 0.02**2 + np.log(33) / 0.2**2) / (1 / 0.02**2 + 1 / 0.2**2)
    assert np.log(fused["z"][0]) == pytest.approx(expected)
    assert 0.015 < fused["depth_sigma"][0] < 0.025


def test_unknown_uncertainty_is_the_default():
    fused = fuse({"a": car(depth_sigma=np.nan), "b": car(y=3.3, z=33.0)})
    assert np.log(fused["z"][0]) == pytest.approx((np.log(30) + np.log(33)) / 2)
    assert fused["depth_sigma"][0] == pytest.approx(DEFAULT_SIGMA / np.sqrt(2), rel=0.3)


def test_empty_members():
    none = cars.empty([*cars.POSE, "score"])
    assert len(fuse({"a": none, "b": none})) == 0
    assert len(fuse({"a": none, "b": car()})) == 1


def test_a_fit_that_uses_none_of_the_members_is_no_fit_for_them(views):
    names = ["a", "b"]
    parts = {"members": Part(on=True, gain=1.0)}
    fit = Fit(members=dict.fromkeys(names, NEUTRAL), used=["b"], parts=parts)
    assert len(fuse({name: views[name] for name in names}, fit))
    with pytest.raises(UserError, match="the fit leaves out a and uses b, which are not given"):
        fuse({"a": views["a"]}, fit)


def test_thirty_members_of_the_whole_test_set_in_seconds():
    rng = np.random.default_rng(8)
    truth = scene(2021, rng, per_image=6)
    view = noisy_view(truth, rng, aside=0.005)
    members = {}
    for number in range(30):
        factor = np.exp(rng.normal(0, 0.05, len(view)))
        members[str(number)] = view.assign(**{axis: view[axis] * factor for axis in cars.POSITION})
    start = time.process_time()
    fused = fuse(members)
    assert time.process_time() - start < 20  # about 5 on an idle core
    assert fused["agreement"].max() == 30


def test_plain_submissions(tmp_path, truth, views):
    images = sorted(truth["ImageId"].unique()) + ["ID_without_cars"]
    for name, table in views.items():
        write_submission(tmp_path / f"{name}.csv", table, images)
    inputs = [tmp_path / f"{name}.csv" for name in views]
    run_module("carpose.fuse", "--inputs", *inputs, "--output", tmp_path / "out.csv")
    fused, order = read_submission(tmp_path / "out.csv")
    assert order == images
    write_sample(tmp_path / "sample.csv", images[::-1])
    sample = ("--sample", tmp_path / "sample.csv")
    run_module("carpose.fuse", "--inputs", *inputs, *sample, "--output", tmp_path / "sorted.csv")
    again, order = read_submission(tmp_path / "sorted.csv")
    assert order == images[::-1] and len(again) == len(fused)
    assert value(truth, fused) > 1.3 * max(value(truth, table) for table in views.values())


def test_a_photo_that_one_file_lacks_is_fused_from_the_others(tmp_path, truth, views):
    """Its cars and scores are those of the two other files alone; all other photos' those of all three."""
    images = sorted(truth["ImageId"].unique())
    lacking = images[3]
    paths = {name: tmp_path / f"{name}.csv" for name in views}
    for name, table in views.items():
        write_submission(paths[name], table, images)

    def fused(*inputs, output="out.csv"):
        done = run_module("carpose.fuse", "--inputs", *inputs, "--output", tmp_path / output)
        table, order = read_submission(tmp_path / output)
        assert order == images
        return table, done.stderr

    everything, notes = fused(*paths.values())
    others, _ = fused(paths["a"], paths["b"])
    assert not notes
    rows = paths["c"].read_text().splitlines()
    paths["c"].write_text("\n".join(row for row in rows if not row.startswith(lacking)) + "\n")
    table, notes = fused(*paths.values())
    text = f"c.csv: no row for 1 of {len(images)} photos, first {lacking}; only the other files"
    assert text in notes and notes.count("\n") == 1
    of_photo, expected = (t[t["ImageId"] == lacking].reset_index(drop=True) for t in (table, others))
    assert len(expected) and expected["score"].max() > 0.5
    pd.testing.assert_frame_equal(of_photo, expected)
    other_photos, expected = (t[t["ImageId"] != lacking].reset_index(drop=True) for t in (table, everything))
    pd.testing.assert_frame_equal(other_photos, expected)


def test_scores_by_hand_where_a_file_lacks_a_photo(tmp_path, monkeypatch):
    """A photo predicted without cars counts as score 0, one not predicted does not count; one in no file is
    noted."""
    monkeypatch.chdir(tmp_path)
    write_submission("a.csv", car("p", score=0.6), ["p", "q"])
    write_submission("b.csv", car("p", score=0.4), ["p", "q"])
    write_submission("c.csv", car("q", score=0.9), ["q"])
    write_sample("sample.csv", ["q", "p", "r", "s"])
    options = ("--inputs", "a.csv", "b.csv", "c.csv", "--sample", "sample.csv", "--output", "out.csv")
    notes = run_module("carpose.fuse", *options).stderr
    table, order = read_submission("out.csv")
    assert order == ["q", "p", "r", "s"] and table["ImageId"].tolist() == ["q", "p"]
    assert table["score"].tolist() == pytest.approx([0.3, 0.5])
    assert "c.csv: no row for 1 of 2 photos, first p" in notes
    assert "sample.csv: 2 of 4 photos are in none of the inputs, first r; they get no cars" in notes


def test_members_that_did_not_predict_a_photo_are_left_out_there(views):
    """Several files lack several photos, in several combinations, with a fit."""
    fit = Fit(members=dict.fromkeys(views, NEUTRAL))
    ids = sorted(views["a"]["ImageId"].unique())
    missing = {"a": ids[:2], "b": ids[1:3], "c": ["elsewhere"]}
    predicted = {name: table[~table["ImageId"].isin(missing[name])] for name, table in views.items()}
    table = fuse_with_missing(predicted, missing, fit)
    for image_id, names in zip(ids[:4], ("bc", "c", "ac", "abc"), strict=True):
        expected = fuse({name: views[name][views[name]["ImageId"] == image_id] for name in names}, fit)
        pd.testing.assert_frame_equal(
            table[table["ImageId"] == image_id].reset_index(drop=True), expected, rtol=1e-9
        )
    pd.testing.assert_frame_equal(fuse_with_missing(views, {}, fit), fuse(views, fit))


def test_submissions_as_the_competition_takes_them_are_fused(tmp_path, monkeypatch):
    """Confidences in percent, yaws beyond π, row numbers, another order: the same cars as without."""
    monkeypatch.chdir(tmp_path)
    plain = car("p", yaw=-3.1, score=0.8), car("q", score=1.0)
    write_submission("a.csv", pd.concat(plain), ["p", "q"])
    pose = "0.15 {} 3.1 0 3 30 {}"
    rows = [",ImageId,PredictionString", f"7,q,{pose.format(0.3, 100)}"]
    rows += [f"8,p,{pose.format(-3.1 + 2 * np.pi, 80)}"]
    (tmp_path / "b.csv").write_text("\n".join(rows) + "\n")
    done = run_module("carpose.fuse", "--inputs", "a.csv", "b.csv", "--output", "out.csv")
    fused, expected = read_submission("out.csv")[0], read_submission("a.csv")[0]
    pd.testing.assert_frame_equal(fused, expected, rtol=1e-7)
    assert done.stderr.count("note: b.csv") == 3 == done.stderr.count("\n")
    assert "0 … 100 is scaled to 0 … 1" in done.stderr
    strict = ("--inputs", "a.csv", "b.csv", "--output", "strict.csv", "--strict")
    failed = run_module("carpose.fuse", *strict, check=False)
    assert failed.returncode == 2 and "b.csv, line 1: header" in failed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "fused.txt"), "fused.txt: .txt is not a known format; name it .csv or .parquet"),
        (("--output", "fused"), "fused: the name has no suffix; name it .csv or .parquet"),
        (("--output", "folder.csv"), "folder.csv: is a folder; name a file"),
        (("--output", "a.csv/fused.csv"), "a.csv: File exists"),
        (("--inputs", "nowhere.parquet"), "nowhere.parquet: there is no such file"),
        (("--inputs", "behind.csv"), "behind.csv, line 2, image ID_a: a car is not in front of the camera"),
        (("--inputs", "behind.parquet"), "behind.parquet, image ID_a: a car is not in front of the camera"),
        (("--sample", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (("--output", "f.parquet --sample a.csv"), "--sample a.csv: it applies to a CSV output only; name"),
        (("--inputs", "a.csv b.csv --strict"), "a.csv: 1 of 2 photos were not predicted, first ID_b; add"),
        (
            ("--inputs", "a.parquet b.csv"),
            "a.parquet: 1 of 2 photos were not predicted, first ID_b; predict",
        ),
        (("--fit", "nowhere.json"), "nowhere.json: no such file; make it with carpose.fuse.fit"),
        (("--fit", "fit.json"), "fit.json: not a file of carpose.fuse.fit (KeyError: 'bias'); fit the"),
    ],
)
def test_what_fuse_cannot_read_or_write(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "fit.json").write_text('{"members": {"a": {}}, "parts": {}}')
    write_submission("a.csv", car(), ["ID_a"])
    write_submission("b.csv", car("ID_b"), ["ID_a", "ID_b"])
    cars.write("a.parquet", car(), image_ids=["ID_a"])
    write_submission("behind.csv", car(z=-30.0), ["ID_a"])
    cars.write("behind.parquet", car(z=-30.0))
    defaults = {"--inputs": "a.csv", "--output": "fused.csv"} | dict([options])
    command = [word for name, values in defaults.items() for word in (name, *values.split())]
    done = run_module("carpose.fuse", *command, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "fused.csv").exists()


def test_three_views_of_real_cars(real):
    labels, image_ids = read_labels(real / "train.csv")
    rng = np.random.default_rng(0)
    truth = labels[labels["ImageId"].isin(rng.choice(image_ids, 300, replace=False))]
    views = {name: noisy_view(truth, rng) for name in "abc"}
    assert value(truth, fuse(views)) > 0.63
