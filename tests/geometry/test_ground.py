"""The ground plane: its prior from labels, and predicted cars that it corrects."""

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.core import cars
from carpose.geometry import ground
from carpose.kaggle.tables import read_labels, read_submission

PRIOR = {
    "mean": [0.04, 0.16, 1.45],
    "covariance": np.diag([0.02, 0.01, 0.15]).__pow__(2).tolist(),
    "height": 0.1,
}


def street(photos=40, count=10, height=0.1, seed=0):
    """Cars on a plane per photo that is drawn from PRIOR; height: standard deviation about it in metres."""
    rng = np.random.default_rng(seed)
    planes = rng.multivariate_normal(PRIOR["mean"], PRIOR["covariance"], photos)
    photo = np.repeat(np.arange(photos), count)
    z = rng.uniform(8, 40, len(photo))
    x = rng.uniform(-0.4, 0.4, len(photo)) * z
    a, b, c = planes[photo].T
    y = a * x + b * z + c + rng.normal(0, height, len(photo))
    table = pd.DataFrame({"ImageId": np.char.add("ID_", photo.astype(str)).astype(object)})
    table[cars.ANGLES] = [0.15, 0.3, -3.1]
    return table.assign(x=x, y=y, z=z, score=0.8, depth_sigma=0.05)


def noisy(table, sigma=0.05, seed=1):
    """The same cars, moved along their rays by noise of log z with this standard deviation."""
    factor = np.exp(np.random.default_rng(seed).normal(0, sigma, len(table)))
    table = table.assign(depth_sigma=sigma)
    table[cars.POSITION] = table[cars.POSITION].to_numpy() * factor[:, None]
    return table


def error(table, truth):
    return np.sqrt(np.mean(np.log(table["z"] / truth["z"]) ** 2))


def test_prior_is_recovered_from_labels():
    prior = ground.fit_prior(street(400, 8))
    np.testing.assert_allclose(prior["mean"], PRIOR["mean"], atol=0.03)
    deviation = np.sqrt(np.diag(prior["covariance"]))
    np.testing.assert_allclose(deviation, np.sqrt(np.diag(PRIOR["covariance"])), rtol=0.2)
    assert prior["height"] == pytest.approx(0.1, rel=0.3)


def test_prior_is_robust_to_cars_on_bridges():
    table = street(200, 8)
    table.loc[::20, "y"] -= 4
    np.testing.assert_allclose(ground.fit_prior(table)["mean"], PRIOR["mean"], atol=0.06)


def test_prior_of_no_labels_and_of_single_cars():
    assert np.isfinite(ground.fit_prior(street(0, 0))["mean"]).all()
    prior = ground.fit_prior(street(30, 1))
    assert np.linalg.eigvalsh(prior["covariance"]).min() > 0


@pytest.mark.parametrize("photos", [1, 8])
def test_cars_that_lie_exactly_on_a_plane_or_on_one_photo(photos):
    """Made-up labels do: the prior can be inverted all the same."""
    table = street(photos, height=0.0).assign(score=0.9, depth_sigma=0.05)
    for x in (table, table[:1], table[:2]):
        prior = ground.fit_prior(x.assign(y=0.15 * x["z"] + 1.5))
        assert np.isfinite(ground.refine(x, prior)[cars.POSITION].to_numpy(float)).all()


def test_depths_become_more_accurate():
    truth = street()
    predicted = noisy(truth)
    moved = ground.refine(predicted, PRIOR)
    assert error(moved, truth) < 0.93 * error(predicted, truth)
    assert (moved["depth_sigma"] <= predicted["depth_sigma"]).all()
    ids = truth["ImageId"].unique()
    value = [metric.evaluate(truth, table, ids)["mAP"] for table in (predicted, moved)]
    assert value[1] > 1.05 * value[0]


def test_uncertainties_agree_with_the_errors_of_depth():
    truth = street(200)
    moved = ground.refine(noisy(truth), PRIOR)
    ratio = np.log(moved["z"] / truth["z"]) / moved["depth_sigma"]
    assert 0.7 < np.sqrt(np.mean(ratio**2)) < 1.3


def test_direction_and_rotation_are_unchanged():
    predicted = noisy(street())
    moved = ground.refine(predicted, PRIOR)
    for axis in "xy":
        np.testing.assert_allclose(moved[axis] / moved["z"], predicted[axis] / predicted["z"])
    same = ["ImageId", *cars.ANGLES, "score"]
    pd.testing.assert_frame_equal(moved[same], predicted[same])


def test_cars_of_small_uncertainty_hardly_move():
    predicted = street(height=0.0).assign(depth_sigma=1e-4)
    np.testing.assert_allclose(ground.refine(predicted, PRIOR)["z"], predicted["z"], rtol=1e-4)


def test_outliers_are_not_moved():
    """A car three deviations from its photo's ground, or above the horizon, stays as it is."""
    predicted = street(1, 12, height=0.0)
    predicted.loc[0, "y"] -= 6.0
    predicted.loc[1, "y"] = -2.0
    moved = ground.refine(predicted, PRIOR)
    pd.testing.assert_frame_equal(moved[:2], predicted[:2])
    assert np.abs(np.log(moved["z"] / predicted["z"])[2:]).max() < 0.02, "they do not bend the others' plane"


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_car_far_too_near_or_too_far_is_not_moved(factor):
    predicted = street(1, 12, height=0.0)
    predicted.loc[0, cars.POSITION] *= factor
    moved = ground.refine(predicted, PRIOR)
    pd.testing.assert_frame_equal(moved[:1], predicted[:1])
    assert (moved["z"][1:] != predicted["z"][1:]).all()


def test_a_car_is_corrected_by_the_other_cars_alone():
    """Where its own depth is larger, the depth that its photo's ground gives stays as it is."""
    prior = PRIOR | {"covariance": (4 * np.array(PRIOR["covariance"])).tolist()}
    one = street(1, 5, height=0.0)
    other = one.copy()
    other.loc[0, cars.POSITION] *= 1.04
    first, second = (ground.refine(table, prior).loc[0] for table in (one, other))
    share = 1 - (first["depth_sigma"] / 0.05) ** 2  # of the ground's depth in the mean
    assert share > 0.05
    assert np.log(second["z"] / first["z"]) == pytest.approx((1 - share) * np.log(1.04), rel=0.01)


def test_photos_are_independent_and_order_does_not_matter():
    predicted = noisy(street(6, 5))
    all_moved = ground.refine(predicted, PRIOR)
    for _, rows in predicted.groupby("ImageId"):
        np.testing.assert_allclose(ground.refine(rows, PRIOR)["z"], all_moved.loc[rows.index, "z"])
    shuffled = predicted.sample(frac=1, random_state=0)
    np.testing.assert_allclose(ground.refine(shuffled, PRIOR)["z"], all_moved.loc[shuffled.index, "z"])


def test_map_of_real_predictions_rises_by_a_tenth(real):
    """Predictions of a real model, with the prior from the labels of other photos."""
    labels, _ = read_labels(real / "train.csv")
    predicted, _ = read_submission(real / "val_predictions.csv")
    ids = predicted["ImageId"].unique()
    prior = ground.fit_prior(labels[~labels["ImageId"].isin(ids)])
    moved = ground.refine(predicted.assign(depth_sigma=0.12), prior)
    before, after = (metric.evaluate(labels, table, ids)["mAP"] for table in (predicted, moved))
    assert before == pytest.approx(0.0848, abs=1e-4) and after > 1.1 * before


def test_no_cars_and_unknown_uncertainty():
    assert ground.refine(street(0, 0), PRIOR).empty
    moved = ground.refine(street().assign(depth_sigma=np.nan), PRIOR)
    assert (moved["depth_sigma"] <= ground.DEFAULT_SIGMA).all() and moved["depth_sigma"].median() < 0.046
