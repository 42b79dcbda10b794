"""Augmentation transforms poses and image together: projections of poses match the warped image."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpose.config.train_config import TrainConfig
from carpose.data import augment
from carpose.geometry import camera, rotation

INTRINSICS = np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
PHOTO = (846, 678)
TRAIN_CONFIG = TrainConfig(
    input_width=512,
    input_height=160,
    crop=[0, 0.5, 1, 1],
    flip=0.5,
    rotate_deg=[6, 3, 6],
    zoom=0.2,
    shift=0.05,
)
VIEW = camera.crop_and_resize(PHOTO, TRAIN_CONFIG.crop, (512, 160))
CAR = np.array([[sx, sy, sz] for sx in (-0.9, 0.9) for sy in (-0.7, 0.7) for sz in (-2.2, 2.2)])  # a box


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.floats(-15, 15), st.floats(5, 100), st.floats(-3.1, 3.1))
def test_every_point_of_a_car_follows_the_warped_image(seed, x, z, yaw):
    placement = augment.sample_placement(TRAIN_CONFIG, VIEW, np.random.default_rng(seed))
    xyz = np.array([[x, 1.463 + 0.0402 * x + 0.1597 * z, z]])
    rotations = rotation.matrix([[0.15, yaw, -3.1]])
    before = camera.project(INTRINSICS, CAR @ rotations[0].T + xyz)
    homogeneous = np.column_stack([before, np.ones(len(before))]) @ placement.homography(INTRINSICS).T
    moved = homogeneous[:, :2] / homogeneous[:, 2:]

    xyz, rotations = placement.apply(xyz, rotations)
    # A mirrored car is the mirror image of the (symmetric) car: its corners swap left and right.
    mirrored = np.linalg.det(placement.scene) < 0
    corners = CAR * [-1, 1, 1] if mirrored else CAR
    after = camera.project(placement.view @ INTRINSICS, corners @ rotations[0].T + xyz)
    np.testing.assert_allclose(after, moved, atol=1e-6)
    assert np.linalg.det(rotations[0]) == pytest.approx(1)


def test_flip_is_about_the_principal_point():
    """x → −x, yaw → −yaw, roll → −roll, pitch stays."""
    placement = augment.Placement(rotation.MIRROR, VIEW)
    xyz, rotations = placement.apply(np.array([[3.0, 4.0, 20.0]]), rotation.matrix([[0.15, 0.7, -3.0]]))
    np.testing.assert_allclose(xyz, [[-3, 4, 20]])
    np.testing.assert_allclose(rotation.angles(rotations), [[0.15, -0.7, 3.0]], atol=1e-12)
    at = placement.homography(INTRINSICS) @ [INTRINSICS[0, 2], 400, 1]
    np.testing.assert_allclose(at, VIEW @ [INTRINSICS[0, 2], 400, 1])


def test_magnified_top_keeps_the_frame_and_every_point_of_a_car():
    """The corners of the top and bottom edge stay, the top is enlarged, and projections agree."""
    warp = camera.magnify_top((512, 160), 0.8)
    edge = np.array([[0.0, 0, 1], [511, 0, 1], [255.5, 160, 1]]) @ warp.T
    np.testing.assert_allclose(edge[:, :2] / edge[:, 2:], [[0, 0], [511, 0], [255.5, 160]])
    heights = [camera.project(warp, [[0, y, 1.0], [0, y + 1, 1.0]])[:, 1] for y in (0, 150)]
    grown, shrunk = (after - before for before, after in heights)
    assert grown == pytest.approx(1.8, rel=0.01) and shrunk < 0.6
    view, xyz = warp @ VIEW, np.array([[2.0, 6, 30], [-4, 3, 12]])
    pixels = camera.project(view @ INTRINSICS, xyz)
    np.testing.assert_allclose(camera.backproject(view @ INTRINSICS, pixels, xyz[:, 2]), xyz)


def test_a_warped_image_shows_a_point_where_its_pose_projects():
    """Measured in the image itself: the centre of a white dot is right to a third of a pixel."""
    train_config = replace(TRAIN_CONFIG, flip=1.0)
    for seed in range(8):
        placement = augment.sample_placement(train_config, VIEW, np.random.default_rng(seed))
        xyz = np.array([[2.0, 6.0, 30.0]])
        image = np.zeros((PHOTO[1], PHOTO[0], 4), np.float32)
        u, v = camera.project(INTRINSICS, xyz)[0]
        grid_v, grid_u = np.mgrid[: PHOTO[1], : PHOTO[0]]
        image[..., 0] = 255 * np.exp(-((grid_u - u) ** 2 + (grid_v - v) ** 2) / (2 * 4**2))
        warped = augment.warp(image.astype(np.uint8), placement.homography(INTRINSICS), (512, 160))[..., 0]
        warped = np.where(warped == augment.BORDER[0], 0, warped).astype(float)
        moved, _ = placement.apply(xyz, np.eye(3)[None])
        expected = camera.project(placement.view @ INTRINSICS, moved)[0]
        rows, columns = np.mgrid[:160, :512]
        near = np.hypot(columns - expected[0], rows - expected[1]) < 12
        weight = warped * near
        measured = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
        np.testing.assert_allclose(measured, expected, atol=0.33)


def test_photometric_is_deterministic_and_leaves_the_mask():
    image = np.random.default_rng(0).integers(0, 255, (32, 64, 4), np.uint8)
    change = augment.Photometric(1.0)
    first, second, other = (change(image, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(first[..., 3], image[..., 3])


def test_photometric_draws_each_transform_independently():
    """With the same random numbers for all transforms a fifth of the images would not change."""
    image = np.random.default_rng(0).integers(60, 180, (8, 16, 4), np.uint8)
    change = augment.Photometric(1.0)
    untouched = [(change(image, np.random.default_rng(seed)) == image).all() for seed in range(1000)]
    assert np.mean(untouched) == pytest.approx(0.2 * 0.7 * 0.7 * 0.8, abs=0.03)


def test_scale_augmentation_scales_geometry_and_colour():
    train_config = replace(TRAIN_CONFIG, colour=0.6)
    double = augment.scale_augmentation(train_config, 2.0)
    assert (double.rotate_deg, double.zoom, double.shift) == ([12, 6, 12], 0.4, 0.1)
    assert double.colour == 1.0 and double.flip == train_config.flip


def test_warp_fills_with_grey_and_no_mask():
    image = np.full((10, 10, 4), 255, np.uint8)
    out = augment.warp(image, np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]]), (20, 10))
    assert (out == augment.BORDER).all()


def test_albumentations_asks_for_no_news(monkeypatch):
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    augment.Photometric(1.0)
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
