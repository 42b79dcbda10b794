"""Car models as meshes: read, checked, and outlined where the camera says."""

import cv2
import numpy as np
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.geometry import camera, meshes, rotation
from tests.helpers import POSES

SIZE = (423, 339)  # pixels: an eighth of the data set's photos
INTRINSICS = np.array([[288.0, 0, 210.8], [0, 288.2, 169.4], [0, 0, 1]])


def test_mesh_is_turned_upright_and_counts_from_zero(wedge):
    np.testing.assert_array_equal(wedge.vertices[4], [-1, 0.8, -2])
    np.testing.assert_array_equal(wedge.faces[0], [0, 1, 2])


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a car model"),
        ('{"vertices": [[0, 0, 0]]}', "not a car model"),
        ('{"vertices": [[0, 0, 0]], "faces": [[0, 1, 1]]}', "from 1 to 1"),
        ('{"vertices": [[0, 0, 0]], "faces": [[1, 1, 2]]}', "from 1 to 1"),
    ],
)
def test_bad_mesh_is_explained(tmp_path, content, message):
    path = tmp_path / "car.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        meshes.load(path)


def test_model_type_without_a_name_is_named(tmp_path):
    (tmp_path / "ids.csv").write_text("model_type,name\n1,wedge\n")
    with pytest.raises(UserError, match="model type 7"):
        meshes.load_types(tmp_path, tmp_path / "ids.csv", {7})


@pytest.mark.parametrize("row", range(len(POSES)))
def test_outline_bounds_the_projected_vertices(wedge, row):
    pose = POSES.iloc[row]
    turn = rotation.matrix(pose[cars.ANGLES].to_numpy(float))[0]
    position = pose[cars.POSITION].to_numpy(float)
    outline = np.concatenate(meshes.outline(INTRINSICS, turn, position, wedge, SIZE))
    projected = camera.project(INTRINSICS, wedge.vertices @ turn.T + position)
    np.testing.assert_allclose(outline.min(axis=0), projected.min(axis=0), atol=0.6)
    np.testing.assert_allclose(outline.max(axis=0), projected.max(axis=0), atol=0.6)


def test_outline_follows_a_notch():
    """The union of faces, not their hull: an L of two plates has no outline across its notch."""
    plate = np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0]], float)
    mesh = meshes.Mesh(plate, np.array([[0, 1, 2], [0, 2, 3], [3, 4, 5], [3, 5, 6]]))
    polygon = meshes.outline(INTRINSICS, np.eye(3), np.array([0, 0, 10.0]), mesh, SIZE)[0]
    area = cv2.contourArea(polygon.astype(np.float32)) * (10 / 288) ** 2
    assert area == pytest.approx(3, rel=0.05)  # m²; the hull has 3.5


def test_nothing_visible_has_no_outline(wedge):
    for position in ([0, 0, -20.0], [500, 0, 20.0]):
        assert meshes.outline(INTRINSICS, np.eye(3), np.array(position), wedge, SIZE) == []
