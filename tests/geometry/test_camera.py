"""The camera mapping between metres and pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpose.core.errors import UserError
from carpose.geometry import camera

coordinate = st.floats(-100, 100)


@given(coordinate, coordinate, st.floats(0.5, 3000))
def test_backproject_inverts_project(x, y, z):
    point = np.array([[x, y, z]])
    pixels = camera.project(camera.INTRINSICS, point)
    np.testing.assert_allclose(
        camera.backproject(camera.INTRINSICS, pixels, point[:, 2]), point, atol=1e-7 * z + 1e-7
    )


def test_known_projection():
    # u = fx·x/z + cx, v = fy·y/z + cy
    np.testing.assert_allclose(
        camera.project(camera.INTRINSICS, np.array([[10.0, 5.0, 50.0]])), [[2147.14748, 1585.57247]]
    )


@pytest.mark.parametrize("perspective", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    "crop",
    [[0.2, 0.3, 0.7, 0.8], [0.1, 0.6, 0.9, 1.2], [-0.2, 0.5, 1.2, 0.9], [0.4, -0.1, 0.5, 0.4]],
)
def test_the_visible_part_holds_what_the_view_shows_of_the_photo(crop, perspective):
    """Compared with all pixels of the input, mapped back to the photo."""
    size = np.array([384, 96])
    view = camera.magnify_top(size, perspective) @ camera.crop_and_resize(camera.PHOTO_SIZE, crop, size)
    u, v = np.meshgrid(np.linspace(-0.5, size[0] - 0.5, 769), np.linspace(-0.5, size[1] - 0.5, 193))
    points = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(view).T
    points = (points[:, :2] / points[:, 2:] + 0.5) / camera.PHOTO_SIZE
    points = points[((points >= 0) & (points <= 1)).all(axis=1)]
    part = camera.visible_part(crop, perspective)
    shown = [*points.min(axis=0), *points.max(axis=0)]
    assert camera.lies_within(shown, part)
    np.testing.assert_allclose(shown, part, atol=0.015)


def test_crop_and_resize_keeps_pixel_edges():
    view = camera.crop_and_resize((400, 300), [0.25, 0.5, 0.75, 1.0], (100, 50))
    corners = np.array([[100 - 0.5, 150 - 0.5, 1], [300 - 0.5, 300 - 0.5, 1]])
    np.testing.assert_allclose((corners @ view.T)[:, :2], [[-0.5, -0.5], [99.5, 49.5]])


def test_cell_is_the_centre_of_its_pixels():
    pixel = np.array([1.5, 5.5, 1])  # the centre of pixels 0…3 and of 4…7
    np.testing.assert_allclose(camera.cells(4) @ pixel, [0, 1, 1])


def test_intrinsics_of_the_competition(tmp_path):
    path = tmp_path / "camera_intrinsic.txt"
    path.write_text("fx = 2304.5479\nfy = 2305.8757\ncx = 1686.2379\ncy = 1354.9849\n")
    np.testing.assert_array_equal(camera.read_intrinsics(path), camera.INTRINSICS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark, as Windows' editors write it
    np.testing.assert_array_equal(camera.read_intrinsics(path), camera.INTRINSICS)


@pytest.mark.parametrize(
    "text, message",
    [("fx = a\n", "line 1"), ("fx = 1\n", "fy, cx, cy missing"), ("fx=-1\nfy=1\ncx=0\ncy=0", "above zero")],
)
def test_bad_intrinsics_are_explained(tmp_path, text, message):
    path = tmp_path / "camera_intrinsic.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        camera.read_intrinsics(path)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_focal_length_is_proportional_to_the_zoom_in_every_view(strength):
    view = camera.magnify_top((384, 96), strength) @ camera.crop_and_resize(
        (846, 678), [0, 0.592, 1, 0.872], (384, 96)
    )
    intrinsics = np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
    for shift in (0, 25):
        zoom = np.array([[1.05, 0, shift], [0, 1.05, -shift], [0, 0, 1]])
        ratio = camera.focal(zoom @ view @ intrinsics) / camera.focal(view @ intrinsics)
        assert ratio == pytest.approx(1.05)


def test_focal_length_is_that_of_both_axes():
    intrinsics = np.array([[400.0, 0, 30], [0, 900.0, 20], [0, 0, 1]])
    assert camera.focal(intrinsics) == pytest.approx(600)
    np.testing.assert_allclose(camera.focal(np.stack([intrinsics, np.eye(3)])), [600, 1])
