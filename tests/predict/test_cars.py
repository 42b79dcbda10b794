"""Tables of cars: networks averaged and alone, views, masks, and which photos a table covers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from carpose.config.sections import Predict
from carpose.core import cars, parquet
from carpose.data import augment
from carpose.data.samples import Photos
from carpose.fuse.combine import SIGMA_RANGE, fuse
from carpose.geometry import camera, rotation
from carpose.heads.head import make_heads
from carpose.heads.targets import encode
from carpose.predict.cars import predict_cars, predict_view, to_table
from carpose.predict.networks import RawPrediction, load_networks
from tests.heads.made_up import outputs_from
from tests.helpers import run_module
from tests.predict.small import CPU, TRAIN_CONFIG, checkpoint, same

SETTINGS = Predict(threshold=0.001)
INTRINSICS = (
    camera.cells(4)
    @ camera.crop_and_resize((846, 678), [0, 0.5, 1, 1], (512, 160))
    @ np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints of two folds."""
    folder = tmp_path_factory.mktemp("models")
    return [checkpoint(folder / f"{fold}.pt", seed=fold + 1) for fold in (0, 1)]


def train_ids(prepared, count=None):
    return pd.read_parquet(prepared / "folds.parquet").ImageId.tolist()[:count]


def predicted(prepared, networks, images=4, workers=0, **changes):
    settings = replace(SETTINGS, **changes)
    ids = train_ids(prepared, images)
    return predict_cars(networks, TRAIN_CONFIG, prepared / "cache", ids, CPU, settings, workers=workers)


def test_networks_together_and_alone(prepared, models):
    networks, _ = load_networks(models, CPU)
    together, alone = predicted(prepared, networks)
    assert len(alone) == 2
    for network, table in zip(networks, alone, strict=True):
        single, (again,) = predicted(prepared, [network])
        same(table, single)
        assert again is single
    assert len(together) != len(alone[0]) or not np.allclose(together.score, alone[0].score)
    same(predicted(prepared, [networks[0], networks[0]])[0], alone[0])


def test_no_photos_give_empty_tables(prepared, models):
    networks, _ = load_networks(models, CPU)
    for selected in (networks, networks[:1]):
        together, alone = predicted(prepared, selected, images=0)
        assert len(alone) == len(selected)
        for table in (together, *alone):
            assert not len(table) and list(table) == ["ImageId", *cars.POSE, "score", "depth_sigma"]


def test_views_of_a_turned_camera_are_fused(prepared, models):
    """One view is predicted as it is, two are fused, and three nearly equal views give the cars of one."""
    networks, _ = load_networks(models[:1], CPU)
    turns = [[1.0, -0.5, 2.0], [0.0, 0.5, 0.0]]
    ids = train_ids(prepared, 4)
    views = [Photos(prepared / "cache", ids, TRAIN_CONFIG, augment.camera_rotation(*turn)) for turn in turns]
    seen = [predict_view(networks, photos, CPU, SETTINGS)[0] for photos in views]
    plain = predicted(prepared, networks)[0]
    same(predicted(prepared, networks, tta_rotations_deg=turns[:1])[0], seen[0])
    assert len(plain) != len(seen[0]) or not np.allclose(plain.score, seen[0].score)
    both = fuse({"a": seen[0], "b": seen[1]})
    columns = [column for column in plain if column != "depth_sigma"]
    same(predicted(prepared, networks, tta_rotations_deg=turns)[0][columns], both[columns])
    barely = predicted(prepared, networks, tta_rotations_deg=[[0, 0, 1e-7], [0, 1e-7, 0], [1e-7, 0, 0]])[0]
    assert list(barely) == list(plain) and len(barely) <= len(plain)
    strongest = plain.sort_values(["ImageId", "score"]).groupby("ImageId").last()
    again = barely.sort_values(["ImageId", "score"]).groupby("ImageId").last()
    np.testing.assert_allclose(again["score"], strongest["score"], rtol=1e-3)
    sigma = np.minimum(strongest["depth_sigma"], SIGMA_RANGE[1])
    np.testing.assert_allclose(
        again["depth_sigma"], sigma, rtol=1e-3, err_msg="three equal views do not reduce σ"
    )


def test_turned_view_is_turned_back():
    """A car on the maps of a rotated camera is predicted at its position in the camera frame of the photo."""
    turn = augment.camera_rotation(1.0, -2.0, 5.0)
    xyz, matrices = np.array([[2.0, 5, 30]]), rotation.matrix([[0.15, 0.4, -3.1]])
    view = SimpleNamespace(map_intrinsics=INTRINSICS, focal_reference=camera.focal(INTRINSICS))
    targets = encode(
        xyz @ turn.T, turn @ matrices, np.ones(1), INTRINSICS, (128, 40), view.focal_reference, TRAIN_CONFIG
    )
    maps = {name: torch.zeros(1, head.channels, 40, 128) for name, head in make_heads(TRAIN_CONFIG).items()}
    maps["heatmap"][:, 0] = torch.from_numpy(targets["heatmap"])
    for name in ("offset", "depth", "rotation"):
        values = torch.from_numpy(targets[name]).T
        maps[name][0, : len(values), targets["cell"] // 128, targets["cell"] % 128] = values
    prediction = RawPrediction(maps["heatmap"], outputs_from(maps))
    (car,) = to_table(prediction, view, TRAIN_CONFIG, ["ID_1"], 0.99, 64, turn).itertuples()
    np.testing.assert_allclose([car.x, car.y, car.z], xyz[0], rtol=1e-4)
    np.testing.assert_allclose([car.pitch, car.yaw, car.roll], [0.15, 0.4, -3.1], atol=1e-4)


def test_no_car_in_the_mask(prepared, models):
    networks, _ = load_networks(models[:1], CPU)
    ids = train_ids(prepared)
    all_cars, filtered = (
        predicted(prepared, networks, None, mask_filter=masked)[0] for masked in (False, True)
    )
    assert len(filtered) > 0
    photos = Photos(prepared / "cache", ids, TRAIN_CONFIG)
    masks = {name: photos[number][..., 3] > 127 for number, name in enumerate(ids)}
    assert any(mask.any() for mask in masks.values())
    inside = sum(in_mask(car, masks[car.ImageId], photos) for car in all_cars.itertuples())
    assert inside > 0 and not any(in_mask(car, masks[car.ImageId], photos) for car in filtered.itertuples())


def in_mask(car, mask, photos):
    """Whether the car's cell is masked; the offset of an untrained network is below half a cell."""
    column, row = camera.project(photos.view.map_intrinsics, [car.x, car.y, car.z])
    row, column = round(row), round(column)
    return 0 <= row < 16 and 0 <= column < 48 and bool(mask[4 * row + 2, 4 * column + 2])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(prepared, models, workers):
    networks, _ = load_networks(models[:1], CPU)
    alone, many = (predicted(prepared, networks, None, count, batch_size=2)[0] for count in (0, workers))
    pd.testing.assert_frame_equal(alone, many)


def test_command_line_predicts_each_photo_out_of_fold(prepared, models, tmp_path):
    tables = {name: tmp_path / f"{name}.parquet" for name in ("oof", "test", "test-folds")}
    files = [word for name, path in tables.items() for word in (f"--{name}", path)]
    run_module(
        *("carpose.predict", "dataset", "--checkpoints", *models, "--cache", prepared / "cache"),
        *("--images", prepared / "images.parquet", "--folds", prepared / "folds.parquet", *files),
        *("--threshold", 0.001, "--tta-rotations-deg", 0, 0.5, 0, "--tta-rotations-deg", 0, -0.5, 0),
    )
    folds = pd.read_parquet(prepared / "folds.parquet").set_index("ImageId")["fold"]
    oof = cars.read(tables["oof"])
    assert (folds[oof.ImageId].to_numpy() == oof.fold.to_numpy()).all()
    image_ids = folds.index[folds == 1].tolist()
    networks, _ = load_networks(models, CPU)
    settings = replace(SETTINGS, tta_rotations_deg=[[0, 0.5, 0], [0, -0.5, 0]])
    expected, _ = predict_cars(networks[1:], TRAIN_CONFIG, prepared / "cache", image_ids, CPU, settings)
    same(oof[oof.fold == 1].reset_index(drop=True).drop(columns="fold"), expected)
    test_ids = set(pd.read_parquet(prepared / "images.parquet").query("split == 'test'").ImageId)
    assert set(cars.read(tables["test"]).ImageId) <= test_ids
    assert set(cars.read(tables["test-folds"]).fold) == {0, 1}

    def covered(name):
        return set(parquet.about(tables[name])["image_ids"])

    assert covered("oof") == set(folds.index)
    assert covered("test") == covered("test-folds") == test_ids
    assert parquet.about(tables["test-folds"])["folds"] == [0, 1]
