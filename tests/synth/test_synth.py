"""The demo data: layout, geometry compared with an independent silhouette, difficulty, determinism."""

import filecmp
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from carpose.core.cars import POSITION
from carpose.core.errors import UserError
from carpose.geometry import rotation
from carpose.kaggle.tables import read_labels
from carpose.synth import demo
from carpose.synth.demo import Scenes, Task, real_meshes, scaled_camera
from carpose.synth.painter import Painter, PlacedCar
from carpose.synth.painter import render as render_scene
from carpose.synth.shapes import HEADLAMP, TAILLAMP, TYPES, parametric
from carpose.synth.street import heading_matrix, sample_cars, sample_plane
from tests.helpers import run_module


def render(folder, *options):
    run_module("carpose.synth", "--output", folder / "data", "--truth-output", folder / "truth.csv", *options)
    return folder / "data"


def scenes(max_distance=80.0):
    size, intrinsics = scaled_camera(0.25)
    meshes = [parametric(name) for name in TYPES]
    return Scenes(None, 1, size, intrinsics, max_distance, meshes, np.arange(len(meshes)))


def test_same_files_whatever_the_number_of_processes(tmp_path):
    options = ("--train-images", 5, "--test-images", 3, "--scale", 0.1)
    single = render(tmp_path / "one", *options, "--jobs", 1)
    two = render(tmp_path / "two", *options, "--jobs", 2)
    files = sorted(path.relative_to(single) for path in single.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all(filecmp.cmp(single / name, two / name, shallow=False) for name in files)
    other = render(tmp_path / "other", *options, "--seed", 2)
    assert (single / "train.csv").read_text() != (other / "train.csv").read_text()


def test_photos_that_were_not_rendered_are_never_replaced(tmp_path):
    photo = tmp_path / "data" / "train_images" / "ID_real.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"taken on a road")
    options = ("--train-images", 4, "--test-images", 2, "--scale", 0.1)
    command = ("carpose.synth", "--output", tmp_path / "data", "--truth-output", tmp_path / "truth.csv")
    done = run_module(*command, *options, check=False)
    assert done.returncode == 2 and "holds photos or labels but no RENDERED.txt" in done.stderr
    assert photo.read_bytes() == b"taken on a road" and len(list(photo.parent.parent.iterdir())) == 1
    photo.unlink()
    before = pd.read_csv(render(tmp_path, *options) / "train.csv")
    after = pd.read_csv(render(tmp_path, *options, "--seed", 2) / "train.csv")
    assert list(before.ImageId) != list(after.ImageId) and len(list(photo.parent.iterdir())) == 4


def test_layout_and_size(tmp_path):
    data = render(tmp_path, "--train-images", 4, "--test-images", 2, "--scale", 0.1)
    tables = [tmp_path / f"{name}.parquet" for name in ("images", "labels")]
    run_module(
        *("carpose.kaggle", "check", data, "--findings", tmp_path / "findings.csv"),
        *("--images", tables[0], "--labels", tables[1]),
    )
    assert not (pd.read_csv(tmp_path / "findings.csv")["severity"] == "error").any()
    photos = list((data / "train_images").glob("ID_*.jpg"))
    assert len(photos) == 4 and len(list((data / "test_images").glob("ID_*.jpg"))) == 2
    assert cv2.imread(str(photos[0])).shape == (271, 338, 3)
    assert (data / "camera" / "camera_intrinsic.txt").is_file()
    assert len(list((data / "car_models_json").glob("*.json"))) == len(TYPES)
    # The truth of the test photos is outside the folder; the sample holds a dummy car.
    truth = pd.read_csv(tmp_path / "truth.csv")
    sample = pd.read_csv(data / "sample_submission.csv")
    assert list(truth.ImageId) == list(sample.ImageId) and sample.PredictionString.nunique() == 1


@pytest.mark.parametrize("name", list(TYPES))
def test_car_is_painted_where_its_label_says(name):
    """IoU of the pixels that a car changes with the silhouette projected from its label."""
    rng = np.random.default_rng(3)
    size, intrinsics = scaled_camera(0.5)  # fine enough that smoothed edges hardly count
    mesh, plane = parametric(name), sample_plane(rng)
    for yaw, x, z in ((0.3, -4, 14), (-2.8, 3, 20), (1.7, 0, 30)):
        xyz = np.array([x, plane.y(x, z), z])
        turn = heading_matrix(plane.up, np.array([yaw]))[0]
        painter = Painter(rng, intrinsics, size, plane)
        painter.canvas[:] = 255, 0, 255
        painter.car(0, PlacedCar(0, mesh, xyz, turn), np.array([120, 120, 120.0]))
        painted = (painter.canvas != (255, 0, 255)).any(2)

        # Independent of the renderer: the label's angles through SciPy, the formulas of the data set.
        pitch, yaw_label, roll = rotation.angles(turn[None])[0]
        points = Rotation.from_euler("yxz", [yaw_label, pitch, roll]).apply(mesh.vertices) + xyz
        fx, fy, cx, cy = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
        pixels = points[:, :2] / points[:, 2:] * [fx, fy] + [cx, cy]
        silhouette = np.zeros(size[::-1], np.uint8)
        for face in mesh.faces:
            cv2.fillPoly(silhouette, [np.round(pixels[face] * 16).astype(np.int32)], 1, shift=4)
        iou = (painted & (silhouette > 0)).sum() / (painted | (silhouette > 0)).sum()
        assert iou > 0.9, f"{name} at {z} m: IoU {iou:.3f}"


def test_front_and_back_differ():
    mesh = parametric("sedan")
    centre = mesh.vertices[mesh.faces].mean(1)
    assert centre[mesh.material == HEADLAMP, 2].min() > 1 and centre[mesh.material == TAILLAMP, 2].max() < -1


def test_scenes_are_not_easy(tmp_path):
    """At least 8 labelled cars per photo, a median distance of 30 m, 30 % partly hidden, some masks."""
    shares, tables = [], []

    def watched(*arguments):
        rendering = render_scene(*arguments)
        shares.append(rendering.share[rendering.share >= demo.MIN_VISIBLE])
        return rendering

    for subfolder in ("train_images", "train_masks"):
        (tmp_path / subfolder).mkdir()
    setting = replace(scenes(), folder=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "render", watched)
        for index in range(80):
            tables.append(demo.draw_scene(Task(setting, "train", index))[1])
    labels, masks = pd.concat(tables), len(list((tmp_path / "train_masks").iterdir()))
    assert len(labels) / 80 >= 8
    assert labels["z"].median() >= 30 and labels["z"].max() <= 80
    assert (np.concatenate(shares) < 0.95).mean() >= 0.3
    assert 10 < masks < 70, "some photos have cars that are not of interest, some have none"


def test_three_quarters_of_the_headings_follow_the_road():
    rng = np.random.default_rng(0)
    deviations = []  # from the nearest right angle
    for _ in range(200):
        _, _, yaw = sample_cars(rng, sample_plane(rng), scenes().intrinsics, 846, 80)
        deviations.append(np.abs((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4))
    # Of random headings about a third deviate by less than 0.25.
    assert 0.12 < (np.concatenate(deviations) > 0.25).mean() < 0.3


def positions(table):
    """The positions of all cars, with the six digits that are written."""
    return {tuple(f"{value:.6g}" for value in row) for row in table[POSITION].to_numpy()}


def test_given_poses_are_rendered_unchanged(labels_csv, tmp_path):
    """The labels hold the numbers of the file, also beyond 80 m, except for cars that are masked."""
    options = ("--poses-from", labels_csv, "--max-distance", 5000)
    data = render(tmp_path, *options, "--train-images", 30, "--test-images", 2, "--scale", 0.1)
    labels = read_labels(data / "train.csv")[0]
    assert len(labels) > 100 and positions(labels) <= positions(read_labels(labels_csv)[0])
    assert labels["z"].max() > 80 and len(list((data / "train_masks").iterdir())) > 5


def test_real_poses_and_meshes(real, tmp_path):
    data = render(
        tmp_path,
        *("--poses-from", real / "train.csv", "--car-models", real / "car_models_json"),
        *("--car-model-ids", real / "car_model_ids.csv", "--max-distance", 5000),
        *("--train-images", 4, "--test-images", 2, "--scale", 0.1),
    )
    labels, source = read_labels(data / "train.csv")[0], read_labels(real / "train.csv")[0]
    assert len(labels) > 10 and positions(labels) <= positions(source)
    assert set(labels.model_type) <= set(source.model_type)


def test_too_few_images_with_poses_are_an_error(labels_csv, tmp_path):
    outputs = ("--output", tmp_path / "data", "--truth-output", tmp_path / "truth.csv")
    done = run_module("carpose.synth", *outputs, "--poses-from", labels_csv, check=False)
    message = f"{labels_csv}: 40 images with poses, but 960 are to be rendered; lower train_images or test_i"
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_table_of_car_models_without_its_columns(tmp_path):
    (tmp_path / "ids.csv").write_text("ImageId,PredictionString\n")
    with pytest.raises(UserError, match="ids.csv: cannot be read as the table model_type,name"):
        real_meshes(tmp_path, tmp_path / "ids.csv")
