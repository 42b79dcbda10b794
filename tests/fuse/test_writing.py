"""In which range angles are written: what the leaderboard's metric sees of it, and what can be learnt."""

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars
from carpose.fuse.combine import fuse
from carpose.fuse.fit import fit_nested
from carpose.fuse.writing import Writing, fit_writing
from carpose.geometry import rotation
from tests.helpers import folds_of, noisy_view, scene, street_labels


@pytest.fixture(scope="module")
def habit():
    """Labels of oncoming cars whose writers kept all rolls of a photo on one side, and yaws by the roll."""
    rng = np.random.default_rng(0)
    truth = scene(60, rng)
    photo = pd.factorize(truth["ImageId"])[0]
    side = rng.choice([-1, 1], 60)[photo]
    beyond = side * np.abs(rng.normal(0.02, 0.02, len(truth)))
    truth["roll"] = rotation.wrap(np.pi + beyond)
    return truth.assign(yaw=rotation.wrap(np.pi + 0.05 * side + rng.normal(0, 0.02, len(truth))))


def test_rotations_stay_and_only_the_range_changes(habit):
    writing = fit_writing(
        noisy_view(habit, np.random.default_rng(1), missed=0, false_cars=0), habit, np.arange(len(habit))
    )
    written = writing.apply(habit.assign(score=1.0))
    np.testing.assert_allclose(
        rotation.matrix(written[cars.ANGLES]), rotation.matrix(habit[cars.ANGLES]), rtol=0, atol=1e-12
    )
    rest = [column for column in habit if column not in ("yaw", "roll")]
    pd.testing.assert_frame_equal(written[rest], habit[rest])
    turns = (written[["yaw", "roll"]] - habit[["yaw", "roll"]]).to_numpy() / (2 * np.pi)
    np.testing.assert_allclose(turns, turns.round(), rtol=0, atol=1e-12)
    assert np.abs(written[["yaw", "roll"]].to_numpy()).max() < 1.5 * np.pi + 1e-9


def test_a_photo_s_side_is_learnt_and_pays(habit):
    """Each car's own angle says little, its photo's cars together much."""
    rng = np.random.default_rng(2)
    members = {name: noisy_view(habit, rng, depth_noise=0.02, angle_noise=0.1) for name in "ab"}
    fitted, fused = fit_nested(habit, folds_of(habit, 2), members, "leaderboard")
    part = fitted.parts["writing"]
    assert part.on and part.nested_gain > 0.1
    images = habit["ImageId"].unique()
    natural = fused.assign(**{angle: rotation.wrap(fused[angle]) for angle in ("yaw", "roll")})
    scores = [metric.evaluate(habit, table, images, "leaderboard")["mAP"] for table in (fused, natural)]
    assert scores[0] > 1.3 * scores[1]
    # The rotations are the same: nothing else can tell.
    home = [metric.evaluate(habit, table, images)["mAP"] for table in (fused, natural)]
    assert home[0] == pytest.approx(home[1], abs=1e-9)
    assert (np.abs(fuse(members, fitted)[["yaw", "roll"]]) > np.pi).any(axis=None)


def test_it_is_left_alone_where_nothing_can_be_learnt():
    """Angles that are right to a thousandth say the side by themselves; a model of them says it worse."""
    truth = scene(40, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    members = {name: noisy_view(truth, rng, angle_noise=0.001) for name in "ab"}
    fitted, fused = fit_nested(truth, folds_of(truth, 2), members, "leaderboard")
    assert not fitted.parts["writing"].on and fitted.parts["writing"].gain < 0
    assert (np.abs(fused[cars.ANGLES]) <= np.pi).all(axis=None)


def test_no_pairs_no_harm():
    table = street_labels(4).assign(score=0.5)
    nothing = fit_writing(table, table.iloc[:0], np.arange(0))
    assert Writing.from_json({angle: vars(getattr(nothing, angle)) for angle in ("roll", "yaw")}) == nothing
    written = nothing.apply(table)
    np.testing.assert_allclose(
        rotation.matrix(written[cars.ANGLES]), rotation.matrix(table[cars.ANGLES]), rtol=0, atol=1e-12
    )
