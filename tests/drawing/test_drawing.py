"""Cars on photos and from above: drawn where the camera says."""

import cv2
import numpy as np
import pandas as pd
import pytest

from carpose.core import cars
from carpose.drawing.cars import draw_cars
from carpose.drawing.figures import predictions_figure, spread
from carpose.drawing.layers import PREDICTED, TRUE
from carpose.geometry import camera, meshes, rotation
from carpose.kaggle.tables import read_labels
from tests import reference
from tests.helpers import POSES, count_pixels, rendered

# The part of the photo that a public frame shows.
FRAME_CROPS = {"full": [0.0, 0.0, 1.0, 1.0], "lower": [0.0, 0.5, 1.0, 1.0]}
SIZE = (423, 339)  # pixels: an eighth of the data set's photos
INTRINSICS = np.array([[288.0, 0, 210.8], [0, 288.2, 169.4], [0, 0, 1]])


def test_cars_are_drawn_where_they_are_and_nowhere_else():
    photo = np.zeros((*SIZE[::-1], 3), np.uint8)
    car = POSES.iloc[[2]]
    drawn = draw_cars(photo, INTRINSICS, car, "#ffffff")
    assert not photo.any(), "the photo itself must stay as it was"
    u, v = camera.project(INTRINSICS, car[cars.POSITION].to_numpy(float))[0].round().astype(int)
    assert (drawn[v, u] == 255).all()
    rows, columns = np.nonzero(drawn[..., 0])
    assert np.hypot(columns - u, rows - v).max() < 288 / 12 * 4  # 4 m around the centre


def test_arrow_points_to_the_front():
    """A car that looks to the right (its z axis along +x) has its arrow there, and beyond its box."""
    photo = np.zeros((*SIZE[::-1], 3), np.uint8)
    for yaw, sign in ((np.pi / 2, 1), (-np.pi / 2, -1)):
        car = POSES.iloc[[2]].assign(pitch=0.0, yaw=yaw, roll=0.0)
        assert rotation.matrix(car[cars.ANGLES])[0, 0, 2] == pytest.approx(sign)
        columns = np.nonzero(draw_cars(photo, INTRINSICS, car, "#ffffff"))[1] - 210.8
        reach = columns.max() + columns.min()
        assert np.sign(reach) == sign and abs(reach) > 15


def test_box_across_the_camera_is_cut_not_turned_inside_out():
    """A car beside the camera reaches behind it: what lies before the near plane stays finite and drawn."""
    photo = np.zeros((*SIZE[::-1], 3), np.uint8)
    car = POSES.iloc[[0]].assign(pitch=0.0, yaw=0.0, x=2.5, y=1.5, z=1.5)
    drawn = draw_cars(photo, INTRINSICS, car, "#ffffff")
    assert drawn[:, 211:].any() and not drawn[:, :211].any()
    behind = draw_cars(photo, INTRINSICS, car.assign(z=-5.0), "#ffffff")
    assert not behind.any()


def test_spread_goes_from_few_cars_to_many():
    counts = pd.Series({"few": 0, "two": 2, "five": 5, "nine": 9, "many": 30, "most": 31})
    assert spread(counts, 3) == ["two", "nine", "most"]
    assert spread(counts, 99) == ["few", "two", "five", "nine", "many", "most"]


def test_predictions_show_both_colours(photo_folder, tmp_path):
    shifted = POSES.assign(x=POSES["x"] + 2)
    both = rendered(predictions_figure(photo_folder, list("abc"), POSES, shifted, 3), tmp_path)
    alone = rendered(predictions_figure(photo_folder, list("abc"), POSES, None, 3), tmp_path)
    assert min(count_pixels(both, PREDICTED), count_pixels(both, TRUE)) > 200
    assert count_pixels(alone, PREDICTED) > 200 and count_pixels(alone, TRUE) == 0


def test_predictions_of_an_empty_table(photo_folder, tmp_path):
    picture = rendered(predictions_figure(photo_folder, list("abc"), cars.empty(), None, 2), tmp_path)
    assert count_pixels(picture, "#5a5a5a") > 10_000  # the grey photos are there
    few = count_pixels(picture, PREDICTED)
    assert few < count_pixels(
        rendered(predictions_figure(photo_folder, list("abc"), POSES, None, 2), tmp_path), PREDICTED
    )


def test_outlines_follow_the_edges_of_real_cars(real):
    """Brightness changes more along the true outlines than along the same lines a little beside the cars."""
    truth, names = read_labels(real / "train.csv")[0], meshes.read_names(real / "car_model_ids.csv")
    shifts = np.array([[0, 0], *(8 * np.array([np.cos(a), np.sin(a)]) for a in np.arange(8) * np.pi / 4)])
    edges = []  # (cars, shifts)
    for path in sorted((real / "frames").glob("ID_*.png")):
        image_id, _, piece = path.stem.rpartition("_")
        table = truth[(truth["ImageId"] == image_id) & (truth["z"] < 60)]
        grey = cv2.GaussianBlur(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (0, 0), 1)
        gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        size = grey.shape[::-1]
        view = camera.crop_and_resize(camera.PHOTO_SIZE, FRAME_CROPS[piece], size)
        poses = zip(
            rotation.matrix(table[cars.ANGLES]),
            table[cars.POSITION].to_numpy(),
            table["model_type"],
            strict=True,
        )
        for turn, position, model_type in poses:
            mesh = meshes.load(real / "car_models_json" / f"{names[model_type]}.json")
            polygons = reference.outline(view @ camera.INTRINSICS, turn, position, mesh, size)
            canvas = np.zeros_like(gradient)
            for polygon in polygons:
                cv2.polylines(canvas, [polygon.round().astype(np.int32)], True, 1)
            if canvas.any():
                moved = [cv2.warpAffine(canvas, np.float32([[1, 0, u], [0, 1, v]]), size) for u, v in shifts]
                edges.append([(gradient * line).sum() / max(line.sum(), 1) for line in moved])
    along, *beside = np.mean(edges, axis=0)
    assert len(edges) > 25 and along > max(beside) and along > 1.2 * np.mean(beside)
