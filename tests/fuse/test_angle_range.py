"""Which of −π and π angles are written near: the leaderboard's metric depends on it, and it can be learnt."""

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars
from carpose.fuse.angle_range import AngleRange, fit_angle_range
from carpose.fuse.combine import fuse
from carpose.fuse.fit import fit_nested
from carpose.geometry import rotation
from tests.helpers import folds_of, noisy_view, scene, street_labels


@pytest.fixture(scope="module")
def habit():
    """Labels of oncoming cars: all rolls of a photo are on one side of ±π, and its yaws on the side of the
    rolls."""
    rng = np.random.default_rng(0)
    truth = scene(60, rng)
    photo = pd.factorize(truth["ImageId"])[0]
    side = rng.choice([-1, 1], 60)[photo]
    beyond = side * np.abs(rng.normal(0.02, 0.02, len(truth)))
    truth["roll"] = rotation.wrap(np.pi + beyond)
    return truth.assign(yaw=rotation.wrap(np.pi + 0.05 * side + rng.normal(0, 0.02, len(truth))))


def test_only_the_range_changes_and_rotations_do_not(habit):
    angle_range = fit_angle_range(
        noisy_view(habit, np.random.default_rng(1), missed=0, false_cars=0), habit, np.arange(len(habit))
    )
    written = angle_range.apply(habit.assign(score=1.0))
    np.testing.assert_allclose(
        rotation.matrix(written[cars.ANGLES]), rotation.matrix(habit[cars.ANGLES]), rtol=0, atol=1e-12
    )
    other_columns = [column for column in habit if column not in ("yaw", "roll")]
    pd.testing.assert_frame_equal(written[other_columns], habit[other_columns])
    turns = (written[["yaw", "roll"]] - habit[["yaw", "roll"]]).to_numpy() / (2 * np.pi)
    np.testing.assert_allclose(turns, turns.round(), rtol=0, atol=1e-12)
    assert np.abs(written[["yaw", "roll"]].to_numpy()).max() < 1.5 * np.pi + 1e-9


def test_angles_are_written_on_the_side_of_the_labels(habit):
    """Each by itself: with roll and yaw both on the wrong side the leaderboard's metric is the same again."""
    seen = noisy_view(habit, np.random.default_rng(1), missed=0, false_cars=0, angle_noise=0.1)
    written = fit_angle_range(seen, habit, np.arange(len(habit))).apply(seen)
    for angle in ("roll", "yaw"):
        right = [(np.sign(table[angle]) == np.sign(habit[angle])).mean() for table in (seen, written)]
        assert right[0] < 0.8 and right[1] > 0.9, (angle, right)


def test_the_side_of_a_photo_is_learnt_and_raises_the_score(habit):
    """A car's own angle is a poor predictor of its side, the mean over the photo's cars a good one."""
    rng = np.random.default_rng(2)
    members = {name: noisy_view(habit, rng, depth_noise=0.02, angle_noise=0.1) for name in "ab"}
    fitted, fused = fit_nested(habit, folds_of(habit, 2), members, "leaderboard")
    part = fitted.parts["angle_range"]
    assert part.on and part.nested_gain > 0.1
    images = habit["ImageId"].unique()
    natural = fused.assign(**{angle: rotation.wrap(fused[angle]) for angle in ("yaw", "roll")})
    scores = [metric.evaluate(habit, table, images, "leaderboard")["mAP"] for table in (fused, natural)]
    assert scores[0] > 1.3 * scores[1]
    # The rotations are the same, and the other modes of the metric depend on nothing else.
    given = [metric.evaluate(habit, table, images)["mAP"] for table in (fused, natural)]
    assert given[0] == pytest.approx(given[1], abs=1e-9)
    assert (np.abs(fuse(members, fitted)[["yaw", "roll"]]) > np.pi).any(axis=None)


def test_the_range_is_left_alone_where_nothing_can_be_learnt():
    """Angles with errors of a thousandth are on the right side already; a model does worse."""
    truth = scene(40, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    members = {name: noisy_view(truth, rng, angle_noise=0.001) for name in "ab"}
    fitted, fused = fit_nested(truth, folds_of(truth, 2), members, "leaderboard")
    assert not fitted.parts["angle_range"].on and fitted.parts["angle_range"].gain < 0
    assert (np.abs(fused[cars.ANGLES]) <= np.pi).all(axis=None)


def test_a_fit_without_pairs_keeps_the_rotations():
    table = street_labels(4).assign(score=0.5)
    nothing = fit_angle_range(table, table.iloc[:0], np.arange(0))
    assert (
        AngleRange.from_json({angle: vars(getattr(nothing, angle)) for angle in ("roll", "yaw")}) == nothing
    )
    written = nothing.apply(table)
    np.testing.assert_allclose(
        rotation.matrix(written[cars.ANGLES]), rotation.matrix(table[cars.ANGLES]), rtol=0, atol=1e-12
    )
