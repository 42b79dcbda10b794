"""Pictures and meshes: written, not empty, and drawn where the camera says."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import run_module

from carpose import UserError, camera, cars, drawing, kaggle, meshes, plots, rotation

SIZE = (423, 339)  # pixels: an eighth of the data set's photos
INTRINSICS = np.array([[288.0, 0, 210.8], [0, 288.2, 169.4], [0, 0, 1]])
POSES = pd.DataFrame(
    [
        ["a", 16, 0.155, 0.3, -3.10, -3.0, 5.0, 20.0],
        ["a", 16, 0.155, -2.9, 3.13, 4.0, 8.0, 40.0],
        ["b", 16, 0.155, 1.6, -3.10, 0.0, 3.5, 12.0],
    ],
    columns=["ImageId", "model_type", *cars.POSE],
)
# A wedge: longer than wide, low at the front (z > 0). In the file y points down.
WEDGE = {
    "vertices": [[-1, 0.5, -2], [1, 0.5, -2], [-1, 0.5, 2], [1, 0.5, 2], [-1, -0.8, -2], [1, -0.8, -2]],
    "faces": [[1, 2, 3], [2, 4, 3], [1, 2, 5], [2, 6, 5], [3, 4, 5], [4, 6, 5], [1, 3, 5], [2, 4, 6]],
}


@pytest.fixture
def wedge(tmp_path) -> meshes.Mesh:
    path = tmp_path / "wedge.json"
    path.write_text(json.dumps(WEDGE))
    return meshes.load(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder of three grey test photos, one of them without cars."""
    folder = tmp_path / "data"
    (folder / "test_images").mkdir(parents=True)
    (folder / "camera").mkdir()
    for image_id in "abc":
        cv2.imwrite(str(folder / "test_images" / f"{image_id}.jpg"), np.full((*SIZE[::-1], 3), 90, np.uint8))
    lines = [
        f"{name} = {value}" for name, value in {"fx": 288, "fy": 288.2, "cx": 210.8, "cy": 169.4}.items()
    ]
    (folder / "camera" / "camera_intrinsic.txt").write_text("\n".join(lines))
    return folder


def pixels(figure, tmp_path) -> np.ndarray:
    plots.save(figure, tmp_path / "figure.png")
    return cv2.imread(str(tmp_path / "figure.png"))[..., ::-1].astype(int)


@pytest.mark.parametrize("name, suffix", [("figure", "no suffix"), ("figure.doc", "doc")])
def test_pictures_need_a_format(tmp_path, name, suffix):
    with pytest.raises(UserError, match=f"{name}: {suffix} is no format of pictures; name it .png"):
        plots.save(plots.Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def amount(picture: np.ndarray, colour: str) -> int:
    """How many pixels have very nearly this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=-1) < 12).sum())


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


@pytest.mark.parametrize("known", [False, True])
def test_cars_are_drawn_where_they_are_and_nowhere_else(wedge, known):
    photo = np.zeros((*SIZE[::-1], 3), np.uint8)
    car = POSES.iloc[[2]]
    drawn = drawing.draw_cars(photo, INTRINSICS, car, {16: wedge} if known else None, "#ffffff")
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
        columns = np.nonzero(drawing.draw_cars(photo, INTRINSICS, car, None, "#ffffff"))[1] - 210.8
        reach = columns.max() + columns.min()
        assert np.sign(reach) == sign and abs(reach) > 15


def test_box_across_the_camera_is_cut_not_turned_inside_out():
    """A car beside the camera reaches behind it: what lies before the near plane stays finite and drawn."""
    photo = np.zeros((*SIZE[::-1], 3), np.uint8)
    car = POSES.iloc[[0]].assign(pitch=0.0, yaw=0.0, x=2.5, y=1.5, z=1.5)
    drawn = drawing.draw_cars(photo, INTRINSICS, car, None, "#ffffff")
    assert drawn[:, 211:].any() and not drawn[:, :211].any()
    behind = drawing.draw_cars(photo, INTRINSICS, car.assign(z=-5.0), None, "#ffffff")
    assert not behind.any()


def test_spread_goes_from_few_cars_to_many():
    counts = pd.Series({"few": 0, "two": 2, "five": 5, "nine": 9, "many": 30, "most": 31})
    assert drawing.spread(counts, 3) == ["two", "nine", "most"]
    assert drawing.spread(counts, 99) == ["few", "two", "five", "nine", "many", "most"]


def test_predictions_show_both_colours(data, tmp_path):
    shifted = POSES.assign(x=POSES["x"] + 2)
    both = pixels(drawing.predictions_figure(data, POSES, shifted, 3), tmp_path)
    alone = pixels(drawing.predictions_figure(data, POSES, None, 3), tmp_path)
    assert min(amount(both, drawing.PREDICTED), amount(both, drawing.TRUE)) > 200
    assert amount(alone, drawing.PREDICTED) > 200 and amount(alone, drawing.TRUE) == 0


def test_predictions_of_an_empty_table(data, tmp_path):
    picture = pixels(drawing.predictions_figure(data, cars.empty(), None, 2), tmp_path)
    assert amount(picture, "#5a5a5a") > 10_000  # the grey photos are there
    few = amount(picture, drawing.PREDICTED)
    assert few < amount(pixels(drawing.predictions_figure(data, POSES, None, 2), tmp_path), drawing.PREDICTED)


def test_history_draws_what_was_measured(tmp_path):
    epochs = pd.DataFrame(
        {"epoch": range(1, 6), "loss": [5.0, 4, 3, 2, 1], "mAP": [np.nan, 0.1, np.nan, 0.2, 0.3]}
    )
    figure = plots.history_figure(
        {"round0/dla34/fold0": epochs, "round1/dla34/fold0": epochs.drop(columns="mAP")}
    )
    panels = {axes.get_title(): axes.get_lines() for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["total loss", "mAP, validation fold"]
    assert [len(lines) for lines in panels.values()] == [2, 1]
    np.testing.assert_array_equal(panels["mAP, validation fold"][0].get_xdata(), [2, 4, 5])
    first, second = panels["total loss"]
    assert first.get_color() == second.get_color() and first.get_linestyle() != second.get_linestyle()


def test_history_without_a_training_epoch_is_still_a_picture(tmp_path):
    figure = plots.history_figure({"round0/dla34/fold0": pd.DataFrame({"epoch": [], "loss": []})})
    assert pixels(figure, tmp_path).size


def test_evaluation_is_sorted_and_complete():
    table = pd.DataFrame(
        {
            "name": ["worse", "best", "test only"],
            "oof_mAP": [0.1, 0.3, np.nan],
            "fold0_mAP": [0.09, 0.28, np.nan],
            "fold1_mAP": [0.11, 0.32, np.nan],
            "test_mAP": [0.12, np.nan, 0.2],
        }
    )
    axes = plots.evaluation_figure(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["best", "worse", "test only"]
    assert sorted(bar.get_width() for bar in axes.patches) == [0, 0, 0.1, 0.12, 0.2, 0.3]
    assert sorted(text.get_text() for text in axes.texts) == ["0.100", "0.120", "0.200", "0.300"]


def test_frames_are_drawn(real, tmp_path):
    """Each frame becomes a picture, twice as wide, changed where there are cars: below the horizon."""
    written = drawing.draw_frames(real, tmp_path)
    assert len(written) == 5
    for path in written:
        drawn, frame = cv2.imread(str(path)), cv2.imread(str(real / "frames" / path.name))
        assert drawn.shape[1] == 2 * frame.shape[1]
        untouched = cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        rows = np.nonzero((drawn != untouched).any(axis=(1, 2)))[0]
        top = 0 if path.stem.endswith("lower") else 0.5 * len(drawn)
        assert len(rows) > 20 and rows.min() > top


def test_outlines_follow_the_edges_of_real_cars(real):
    """Brightness changes more along the true outlines than along the same lines a little beside the cars."""
    truth = kaggle.read_labels(real / "train.csv")[0]
    shifts = np.array([[0, 0], *(8 * np.array([np.cos(a), np.sin(a)]) for a in np.arange(8) * np.pi / 4)])
    edges = []  # (cars, shifts)
    for path in sorted((real / "frames").glob("ID_*.png")):
        image_id, _, piece = path.stem.rpartition("_")
        table = truth[(truth["ImageId"] == image_id) & (truth["z"] < 60)]
        models = meshes.load_types(
            real / "car_models_json", real / "car_model_ids.csv", set(table["model_type"])
        )
        grey = cv2.GaussianBlur(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (0, 0), 1)
        gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        size = grey.shape[::-1]
        view = camera.crop_and_resize(drawing.FULL_SIZE, drawing.FRAME_CROPS[piece], size)
        poses = zip(
            rotation.matrix(table[cars.ANGLES]),
            table[cars.POSITION].to_numpy(),
            table["model_type"],
            strict=True,
        )
        for turn, position, model_type in poses:
            polygons = meshes.outline(
                view @ drawing.FULL_INTRINSICS, turn, position, models[model_type], size
            )
            canvas = np.zeros_like(gradient)
            for polygon in polygons:
                cv2.polylines(canvas, [polygon.round().astype(np.int32)], True, 1)
            if canvas.any():
                moved = [cv2.warpAffine(canvas, np.float32([[1, 0, u], [0, 1, v]]), size) for u, v in shifts]
                edges.append([(gradient * line).sum() / max(line.sum(), 1) for line in moved])
    along, *beside = np.mean(edges, axis=0)
    assert len(edges) > 25 and along > max(beside) and along > 1.2 * np.mean(beside)


def test_command_lines(data, tmp_path):
    cars.write(tmp_path / "cars.parquet", POSES)
    pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]}).to_csv(tmp_path / "history.csv", index=False)
    pd.DataFrame({"name": ["fused"], "oof_mAP": [0.2]}).to_csv(tmp_path / "evaluation.csv", index=False)
    for name, arguments in {
        "predictions": (
            "--data",
            data,
            "--cars",
            tmp_path / "cars.parquet",
            "--truth",
            tmp_path / "cars.parquet",
        ),
        "history": ("--histories", f"round0/dla34/fold0={tmp_path / 'history.csv'}"),
        "evaluation": ("--table", tmp_path / "evaluation.csv"),
    }.items():
        output = tmp_path / f"{name}.png"
        run_module("carpose.plots", name, *arguments, "--output", output)
        assert cv2.imread(str(output)).std() > 5


def test_a_folder_without_photos_is_explained(tmp_path):
    with pytest.raises(UserError, match="test_images"):
        drawing.predictions_figure(tmp_path, POSES, None, 2)
