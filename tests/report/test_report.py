"""Parts of the report that can be checked without a run."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carpose.analysis.member_pairs import member_pairs
from carpose.core import cars
from carpose.drawing.figures import PREDICTED, TRUE
from carpose.report import gallery, sections
from carpose.report.page import Table
from tests.helpers import scene

INTRINSICS = np.array([[300.0, 0, 200], [0, 300, 150], [0, 0, 1]])
BOXES = gallery.Shapes({}, gallery.BOX)


def at(*places):
    """Cars that face the camera's way at these x and z."""
    rows = [["a", 0.0, 0.0, np.pi, x, 1.0, z] for x, z in places]
    return pd.DataFrame(rows, columns=["ImageId", *cars.POSE])


def test_a_near_car_hides_what_is_behind_it():
    both = gallery.visible_cars(at((0, 30), (0.5, 12)), BOXES, INTRINSICS, (400, 300))
    far, near = (
        gallery.visible_cars(at(place), BOXES, INTRINSICS, (400, 300)) == 0 for place in ((0, 30), (0.5, 12))
    )
    assert ((both == 1) == near).all() and ((both == 0) == (far & ~near)).all()
    assert 0 < (both == 0).sum() < far.sum()


def test_a_box_covers_what_its_corners_span():
    """The silhouette of a box that is seen straight from behind is the rectangle of its nearer face."""
    owner = gallery.visible_cars(at((0, 20)).assign(y=0.0), BOXES, INTRINSICS, (400, 300))
    rows, columns = np.nonzero(owner == 0)
    width, height, length = gallery.meshes.CAR_SIZE
    scale = 300 / (20 - length / 2)
    assert np.ptp(columns) + 1 == pytest.approx(width * scale, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(height * scale, abs=2)


def test_a_car_around_the_camera_is_left_out():
    assert (gallery.visible_cars(at((0, 1)), BOXES, INTRINSICS, (400, 300)) == -1).all()


def test_from_above_without_cars():
    empty = at((0, 20)).iloc[:0]
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
        "rounds": table["default"]["rounds"] != "2",
        "train.epochs": True,
        "train.lr": False,
        "models.a.epochs": False,
        "models.a.lr": True,
    }
    assert table["default"]["models.a.epochs"] == "3"


def test_numbers_of_a_column_have_like_decimals():
    table = Table.of(pd.DataFrame({"x": [0.25, np.nan, 3.0], "n": [1, 2, 3], "s": ["a", "b", "c"]}))
    assert table.rows == [["0.25", "1", "a"], ["–", "2", "b"], ["3.00", "3", "c"]]
    assert Table.of(pd.DataFrame({"x": []})) is None
