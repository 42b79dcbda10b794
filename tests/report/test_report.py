"""Parts of the report that can be checked without a run."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carpose.analysis.member_pairs import member_pairs
from carpose.core import cars
from carpose.drawing.layers import PREDICTED, TRUE
from carpose.report import gallery, sections
from carpose.report.page import Table
from tests.helpers import scene

INTRINSICS = np.array([[300.0, 0, 200], [0, 300, 150], [0, 0, 1]])


def test_from_above_without_cars():
    empty = pd.DataFrame(columns=["ImageId", *cars.POSE], dtype=float)
    assert gallery.svg_from_above([(empty, TRUE), (empty, PREDICTED)], INTRINSICS).count("<path") == 4


def test_members_with_shared_errors():
    """Two members whose depth errors are half shared, and one that is on its own."""
    rng = np.random.default_rng(0)
    truth = scene(200, rng)

    def member(log_error):
        scaled = truth[cars.POSITION].mul(np.exp(log_error), axis=0)
        return truth.assign(score=0.9, **scaled)

    shared, one, other = (rng.normal(0, 0.03, len(truth)) for _ in range(3))
    pairs = member_pairs(
        truth, {"a": member(shared + one), "b": member(shared + other), "c": member(one * 0)}
    )
    row = pairs[(pairs["member"] == "a") & (pairs["other"] == "b")].iloc[0]
    assert row["depth_correlation"] == pytest.approx(0.5, abs=0.05)
    assert row["fused_depth_sd"] == pytest.approx(row["depth_sd"] * np.sqrt(0.75), rel=0.05)
    exact = pairs[pairs["other"] == "c"]
    assert (exact["fused_depth_sd"] <= exact["other_depth_sd"] + 1e-9).all()


def test_a_loss_unlike_the_others_is_marked():
    def training(depth):
        return pd.DataFrame(
            {"epoch": [1, 2], "loss": [3.0, 2.0], "depth": [1.0, depth], "mAP": [np.nan, 0.3]}
        )

    losses = {
        "a/fold0": 0.5,
        "a/fold1": 0.51,
        "b/fold0": 0.5,
        "b/fold1": 0.52,
        "c/fold0": 0.9,
        "c/fold1": 0.91,
    }
    run = SimpleNamespace(histories={f"round0/{name}": training(loss) for name, loss in losses.items()})
    table, unusual = sections.final_losses(run)
    assert unusual == {(4, "depth"), (5, "depth")}
    assert table["mAP without test-time views"].tolist() == [0.3] * 6


def test_what_differs_from_the_default():
    config = {
        "rounds": 2,
        "train": {"epochs": 3, "lr": 5e-4},
        "models": {"a": {"epochs": 3, "lr": 0.1}, "b": None},
    }
    table = sections.configuration(config).set_index("key")
    assert table["differs"].to_dict() == {
        "rounds": False,
        "train.epochs": True,
        "train.lr": False,
        "models.a.epochs": False,
        "models.a.lr": True,
        "models.b": False,
    }
    assert table["default"]["models.a.epochs"] == "3"


def test_numbers_of_a_column_have_like_decimals():
    table = Table.of(pd.DataFrame({"x": [0.25, np.nan, 3.0], "n": [1, 2, 3], "s": ["a", "b", "c"]}))
    assert table.rows == [["0.25", "1", "a"], ["–", "2", "b"], ["3.00", "3", "c"]]
    assert Table.of(pd.DataFrame({"x": []})) is None


def test_what_a_reader_should_know_first():
    oracles = pd.DataFrame({"oracle": ["as predicted", "true depth", "true rotation", "true pose"]})
    oracles = oracles.assign(name="fused", mAP=[0.3, 0.5, 0.4, 0.9], gain=[0.0, 0.2, 0.1, 0.6])
    folds = {"0": {"target_reached": True}, "1": {"target_reached": False}}
    run = SimpleNamespace(
        config={"exclude": {"max_photos": 24}, "pseudo": {"precision_positive": 0.7}},
        pseudo={"round0": {"folds": folds}},
        fit=SimpleNamespace(mAP={"members": {"a": 0.31, "b": 0.2}, "fused": 0.3}, used=["round1/a"]),
        members=["round0/a", "round1/a", "round0/b", "round1/b", "round0/c"],
        cost=pd.DataFrame(
            {
                "job": [
                    "train round0/a/fold0",
                    "train round0/b/fold0",
                    "predict round1/b",
                    "train round0/c/fold0",
                ],
                "seconds": ["70", "10", "15", "5"],
            }
        ),
        analysis={"oracles": oracles},
    )
    trial, pseudo, fused, left_out, loss = sections.remarks(run)
    assert "only the first 24 photos" in trial
    assert "of round0, fold 1, do not reach the precision of 0.7" in pseudo
    assert "less than its best member alone (0.3100)" in fused
    assert "no prediction of b and c, which took 30 % of" in left_out
    assert "with true depth the mAP would be 0.500" in loss
    run.fit.used.append("round1/c")
    run.cost = run.cost[:0]  # nothing was measured
    assert "no prediction of b." in sections.remarks(run)[3]
    run.fit.used.append("round0/b")
    run.fit.mAP["fused"] = 0.32
    run.config, run.pseudo, run.analysis = {}, {}, {}
    assert sections.remarks(run) == []


def test_views_are_named_only_where_there_are_some():
    assert (
        sections.test_time_views({"predict": {"flip": False, "tta_rotations_deg": [], "mask_filter": False}})
        == ""
    )
    used = {"flip": True, "tta_rotations_deg": [[0, 1, 0], [0, -1, 0]], "mask_filter": True}
    assert (
        sections.test_time_views({"predict": used})
        == "mirror images, several test-time views, the photos' masks"
    )


def test_an_interval_stays_between_0_and_1():
    assert sections.with_interval(0.0004, 0.001) == "0.0004 [0.0000, 0.0024]"
