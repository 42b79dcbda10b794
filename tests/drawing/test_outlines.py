"""Cars as the outlines of their meshes."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.drawing.cars import draw_cars
from carpose.drawing.outlines import CarModels, draw_outlines, visible_cars
from carpose.geometry import meshes, rotation
from tests import reference
from tests.helpers import POSES, WEDGE

SIZE = (423, 339)
INTRINSICS = np.array([[288.0, 0, 210.8], [0, 288.2, 169.4], [0, 0, 1]])


def test_silhouette_is_that_of_the_reference(wedge):
    for car in POSES.to_dict("records"):
        turn = rotation.matrix([[car[angle] for angle in cars.ANGLES]])[0]
        position = np.array([car[axis] for axis in cars.POSITION])
        mask = (visible_cars(pd.DataFrame([car]), [wedge], INTRINSICS, SIZE[::-1]) == 0).astype(np.uint8)
        expected = np.zeros_like(mask)
        for polygon in reference.outline(INTRINSICS, turn, position, wedge, SIZE):
            cv2.fillPoly(expected, [polygon.round().astype(np.int32)], 1)
        assert expected.sum() > 10 and (mask != expected).sum() <= 0.25 * expected.sum() + 20


def test_models_by_type_and_boxes_without_one(tmp_path):
    folder = tmp_path / "car_models_json"
    folder.mkdir()
    (folder / "small.json").write_text(json.dumps(WEDGE))
    with pytest.raises(
        UserError, match=r"car_model_ids.csv: the table model_type,name of the car models is missing"
    ):
        CarModels(folder)
    (tmp_path / "car_model_ids.csv").write_text("model_type,name\n16,small\n")
    models = CarModels(folder)
    assert models.mesh(16) is models.mesh(16.0) and models.mesh(7) is None and models.mesh(None) is None
    black = np.zeros((*SIZE[::-1], 3), np.uint8)
    unknown = POSES.assign(model_type=7)
    boxes = draw_cars(black, INTRINSICS, POSES, "#ffffff")
    np.testing.assert_array_equal(draw_outlines(black, INTRINSICS, unknown, models, "#ffffff"), boxes)
    outlines = draw_outlines(black, INTRINSICS, POSES, models, "#ffffff")
    assert 0 < outlines.sum() < boxes.sum() and not black.any()


def boxes_at(*places):
    """Which of the boxes at these x and z, at the camera's height and facing its way, each pixel shows."""
    sides = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])
    box = meshes.Mesh(meshes.CAR_CORNERS, np.vstack([sides[:, [0, 1, 2]], sides[:, [0, 2, 3]]]))
    rows = [["a", 0.0, 0.0, np.pi, x, 0.0, z] for x, z in places]
    table = pd.DataFrame(rows, columns=["ImageId", *cars.POSE])
    return visible_cars(table, [box] * len(table), INTRINSICS, SIZE[::-1])


def test_a_near_car_hides_what_is_behind_it():
    both, far, near = boxes_at((0, 30), (1, 12)), boxes_at((0, 30)) == 0, boxes_at((1, 12)) == 0
    assert ((both == 1) == near).all() and ((both == 0) == (far & ~near)).all()
    assert 0 < (both == 0).sum() < far.sum()


def test_a_box_covers_what_its_corners_span():
    """Seen straight from behind it is the rectangle of its nearer face."""
    rows, columns = np.nonzero(boxes_at((0, 20)) == 0)
    width, height, length = meshes.CAR_SIZE
    scale = 288 / (20 - length / 2)
    assert np.ptp(columns) + 1 == pytest.approx(width * scale, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(height * scale, abs=2)
