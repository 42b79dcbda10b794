"""The geometry of the data set: each convention held against made-up labels, and against the real ones.

A wrong one (an Euler order, a sign, a permutation) must fail here before it costs a training.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from carpose.core import cars
from carpose.geometry import camera, rotation
from carpose.kaggle.tables import read_labels
from carpose.metric.score import quaternion
from tests import reference
from tests.helpers import ROAD

WIDTH, HEIGHT = camera.PHOTO_SIZE
UP = np.array([0, 1.0, 0])  # of a car, in its own frame


@pytest.fixture(scope="module", params=["made up", "real"])
def labels(request) -> pd.DataFrame:
    path = request.getfixturevalue("labels_csv" if request.param == "made up" else "real")
    return read_labels(path if path.suffix == ".csv" else path / "train.csv")[0]


@pytest.fixture(scope="module")
def real_labels(real) -> pd.DataFrame:
    return read_labels(real / "train.csv")[0]


@pytest.fixture(scope="module")
def centres(real_labels) -> np.ndarray:
    """(N, 2) photo pixels of all real cars."""
    return camera.project(camera.INTRINSICS, real_labels[cars.POSITION].to_numpy(float))


def road_under(labels: pd.DataFrame) -> np.ndarray:
    """The plane y = a + b·x + c·z under all cars (Huber)."""
    position = labels[cars.POSITION].to_numpy(float)
    design = np.column_stack([np.ones(len(position)), position[:, 0], position[:, 2]])
    return least_squares(
        lambda plane: design @ plane - position[:, 1], [1, 0, 0], loss="huber", f_scale=0.2
    ).x


def tilt_deg(matrices: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Angle between each car's up and the road's normal (y points down, so up is −y)."""
    normal = np.array([road[1], -1, road[2]]) / np.sqrt(1 + road[1] ** 2 + road[2] ** 2)
    return np.degrees(np.arccos(np.clip(matrices @ UP @ normal, -1, 1)))


# Made-up and real labels alike


def test_cars_stand_upright_on_the_road(labels):
    road = road_under(labels)
    np.testing.assert_allclose(road, ROAD, atol=0.05)
    tilt = tilt_deg(rotation.matrix(labels[cars.ANGLES]), road)
    oncoming = labels["yaw"].abs() > np.pi / 2
    assert np.median(tilt[oncoming]) < 3 and np.median(tilt[~oncoming]) < 3


@pytest.mark.parametrize(("order", "columns"), [("xyz", [0, 1, 2]), ("YXZ", [1, 0, 2]), ("yxz", [0, 1, 2])])
def test_another_euler_order_topples_oncoming_cars(labels, order, columns):
    oncoming = labels[labels["yaw"].abs() > np.pi / 2]
    angles = oncoming[cars.ANGLES].to_numpy(float)[:, columns]
    assert np.median(tilt_deg(Rotation.from_euler(order, angles).as_matrix(), road_under(labels))) > 4


def test_first_angle_is_pitch_second_is_yaw(labels):
    """The first hardly varies about 0.155, the slope of the road; the second goes all the way round."""
    assert labels["pitch"].median() == pytest.approx(0.155, abs=0.01)
    assert labels["pitch"].quantile([0.05, 0.95]).between(0, 0.35).all()
    assert np.histogram(labels["yaw"], 8, (-np.pi, np.pi))[0].min() > len(labels) / 200


def test_roll_sits_on_the_seam(labels):
    roll = labels["roll"]
    assert (roll > np.pi / 2).mean() > 0.05 and (roll < -np.pi / 2).mean() > 0.5
    # The mean of the numbers is nowhere near a car; that of the turned angle is.
    assert abs(roll.mean()) < 2.8
    assert np.median(np.abs(rotation.wrap(roll + np.pi))) < 0.06
    quaternions = rotation.quaternion(labels[cars.ANGLES].assign(yaw=0.0))
    mean = rotation.mean_quaternion(quaternions, np.ones(len(labels)), np.zeros(len(labels), int), 1)
    assert abs(rotation.angles_from_quaternion(mean)[0, 2]) > 3


def test_a_mirrored_scene_mirrors_the_angles(labels):
    """x → −x of scene and car: yaw and roll change their sign, pitch stays."""
    matrices = rotation.matrix(labels[cars.ANGLES])
    angles = labels[cars.ANGLES].to_numpy(float) * [1, -1, -1]
    np.testing.assert_allclose(
        rotation.MIRROR @ matrices @ rotation.MIRROR, rotation.matrix(angles), atol=1e-9
    )


def test_the_mirror_is_the_principal_point_not_the_middle(labels):
    """Mirrored pixels about cx belong to (−x, y, z); the photo's middle shifts x by 0.46 % of z."""
    x, z = labels["x"].to_numpy(float), labels["z"].to_numpy(float)
    centres = camera.project(camera.INTRINSICS, labels[cars.POSITION].to_numpy(float))
    for axis, shift in ((camera.INTRINSICS[0, 2], 0), ((WIDTH - 1) / 2, 0.0046)):
        mirrored = np.column_stack([2 * axis - centres[:, 0], centres[:, 1]])
        found = camera.backproject(camera.INTRINSICS, mirrored, z)[:, 0]
        np.testing.assert_allclose((found + x) / z, shift, atol=5e-5)


def test_the_metric_has_a_convention_of_its_own(labels):
    """Its distances are those of 'xyz'; with the geometry's order other cars would count as hits."""
    some = labels.iloc[:2000]
    angles = some[cars.ANGLES].to_numpy(float)
    relative = Rotation.from_quat(quaternion(some)) * Rotation.from_euler("xyz", angles).inv()
    np.testing.assert_allclose(relative.magnitude(), 0, atol=1e-6)

    noise = np.random.default_rng(0).normal(0, 0.5, angles.shape)
    other = some.assign(**dict(zip(cars.ANGLES, (angles + noise).T, strict=True)))
    theirs = np.degrees(rotation.distance(quaternion(some), quaternion(other)))
    pairs = zip(other[:50].to_dict("records"), some[:50].to_dict("records"), strict=True)
    np.testing.assert_allclose(theirs[:50], [reference.rotation_distance(p, g) for p, g in pairs], atol=1e-5)
    ours = rotation.distance(rotation.quaternion(angles), rotation.quaternion(other[cars.ANGLES]))
    assert np.abs(np.degrees(ours) - theirs).max() > 5


# What the real labels hold


def test_the_whole_file_is_read(real_labels):
    assert len(real_labels) == 49_684
    assert real_labels["ImageId"].nunique() == 4262
    assert real_labels["model_type"].nunique() == 34
    assert real_labels["ImageId"].value_counts().agg(["min", "max"]).tolist() == [1, 44]


def test_the_real_road(real_labels):
    road = road_under(real_labels)
    assert (np.abs(road - ROAD) < [0.01, 0.001, 0.0005]).all()
    x, y, z = real_labels[cars.POSITION].to_numpy(float).T
    assert np.median(np.abs(road[0] + road[1] * x + road[2] * z - y)) == pytest.approx(0.24, abs=0.01)
    tilt = tilt_deg(rotation.matrix(real_labels[cars.ANGLES]), road)
    assert np.median(tilt) == pytest.approx(2.2, abs=0.1)


def test_real_rolls(real_labels):
    roll = real_labels["roll"]
    assert (roll > np.pi / 2).mean() == pytest.approx(0.15, abs=0.005)
    assert (roll < -np.pi / 2).mean() == pytest.approx(0.85, abs=0.005)
    assert (roll.abs() < np.pi / 2).sum() == 11


def test_real_cars_drive_along_the_lane(real_labels):
    """R·(0, 0, 1) is the heading: most cars drive away from the camera or come towards it, not across."""
    heading = rotation.matrix(real_labels[cars.ANGLES])[:, :, 2]
    along = np.abs(heading[:, 2]) > 0.9
    assert along.mean() > 0.7
    # A car that keeps to the right and is seen from behind drives away.
    ahead = real_labels["x"].between(-1.5, 1.5).to_numpy() & real_labels["z"].lt(60).to_numpy()
    assert (heading[ahead, 2] > 0).mean() > 0.8


def test_real_centres_lie_in_the_lower_half(centres):
    assert centres[:, 1].min() == pytest.approx(1482, abs=1)
    assert centres[:, 1].min() > HEIGHT / 2


def test_real_centres_outside_the_frame(real_labels, centres):
    """A sixth of the width on each side brings nearly all of them back."""
    outside = (centres[:, 0] < 0) | (centres[:, 0] >= WIDTH)
    assert outside.mean() == pytest.approx(0.020, abs=0.0005)
    assert real_labels["ImageId"][outside].nunique() / 4262 == pytest.approx(0.21, abs=0.005)
    padded = (centres[:, 0] >= -WIDTH / 6) & (centres[:, 0] < WIDTH * 7 / 6)
    assert padded.mean() == pytest.approx(0.9997, abs=0.00005)


def test_real_depths(real_labels):
    z = real_labels["z"]
    assert z.median() == pytest.approx(45, abs=0.5)
    assert z.quantile(0.95) == pytest.approx(115, abs=1)
    assert z.max() == pytest.approx(3503, abs=1)
    assert (z > 200).sum() == 143
