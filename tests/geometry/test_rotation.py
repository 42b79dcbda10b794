"""Angles, matrices, quaternions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from carpose.geometry import rotation

angle = st.floats(-np.pi, np.pi)


@given(st.floats(-1.5, 1.5), angle, angle)
def test_angles_round_trip(pitch, yaw, roll):
    matrix = rotation.matrix([[pitch, yaw, roll]])
    np.testing.assert_allclose(rotation.matrix(rotation.angles(matrix)), matrix, atol=1e-7)


def test_order_is_roll_pitch_yaw():
    pitch, yaw, roll = 0.15, 2.0, -3.1
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    ry = np.array([[c(yaw), 0, s(yaw)], [0, 1, 0], [-s(yaw), 0, c(yaw)]])
    rz = np.array([[c(roll), -s(roll), 0], [s(roll), c(roll), 0], [0, 0, 1]])
    np.testing.assert_allclose(rotation.matrix([[pitch, yaw, roll]])[0], rz @ rx @ ry, atol=1e-12)


def test_mean_of_angles_across_pi():
    """The mean of the rolls π−0.1 and −π+0.1 is π, not the mean of the numbers, 0."""
    quaternions = rotation.quaternion([[0.15, 1.0, np.pi - 0.1], [0.15, 1.0, -np.pi + 0.1]])
    mean = rotation.mean_quaternion(quaternions, np.ones(2), np.zeros(2, int), 1)
    assert rotation.distance(mean, rotation.quaternion([[0.15, 1.0, np.pi]]))[0] < 0.02
    assert rotation.distance(mean, rotation.quaternion([[0.15, 1.0, 0.0]]))[0] > 3


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_mean_does_not_depend_on_the_signs_of_quaternions(signs):
    quaternions = rotation.quaternion([[0.1, 0.5, 3.0], [0.2, 0.7, 3.1], [0.15, 0.6, -3.1]])
    flipped = quaternions * np.where(signs, 1, -1)[:, None]
    groups = np.zeros(3, int)
    means = [rotation.mean_quaternion(q, np.ones(3), groups, 1) for q in (quaternions, flipped)]
    assert rotation.distance(*means)[0] < 1e-6


def test_wrap():
    np.testing.assert_allclose(
        rotation.wrap([np.pi, -np.pi, 3 * np.pi + 0.1, 0]), [-np.pi, -np.pi, -np.pi + 0.1, 0]
    )


@given(st.lists(st.tuples(angle, angle, angle), max_size=5))
def test_agrees_with_scipy(rows):
    angles = np.array(rows).reshape(-1, 3)
    expected = [Rotation.from_euler("yxz", [yaw, pitch, roll]).as_matrix() for pitch, yaw, roll in angles]
    matrix = rotation.matrix(angles)
    np.testing.assert_allclose(matrix, np.array(expected).reshape(-1, 3, 3), atol=1e-12)
    quaternion = rotation.quaternion(angles)
    again = [Rotation.from_quat(q).as_matrix() for q in quaternion]
    np.testing.assert_allclose(matrix, np.array(again).reshape(-1, 3, 3), atol=1e-12)
    # Cosines near 1 lose half the digits of an angle.
    np.testing.assert_allclose(
        rotation.matrix(rotation.angles_from_quaternion(quaternion)), matrix, atol=1e-6
    )


def test_angles_at_gimbal_lock():
    for pitch in (np.pi / 2, -np.pi / 2):
        matrix = rotation.matrix([[pitch, 0.7, -0.4]])
        np.testing.assert_allclose(rotation.matrix(rotation.angles(matrix)), matrix, atol=1e-12)
