"""Car models are read and checked."""

import numpy as np
import pytest

from carpose.core.errors import UserError
from carpose.geometry import meshes


def test_mesh_has_y_up_and_indices_from_zero(wedge):
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
