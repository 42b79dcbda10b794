"""`carpose.predict photos`: the cars of the data set's own predictions, members, thresholds, files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from carpose.config.sections import Predict
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.data.cache import open_cache
from carpose.data.photo_files import find_photos
from carpose.data.training_camera import TrainingCamera
from carpose.fuse.combine import fuse
from carpose.fuse.fitted import NEUTRAL, Fit
from carpose.geometry import camera
from carpose.predict.cars import predict_cars
from carpose.predict.members import load_members, name_of
from carpose.predict.networks import load_networks
from carpose.predict.photos import DEFAULTS, THRESHOLD, check_names, fuse_members, predict_members
from tests.helpers import REPOSITORY, run_module
from tests.predict.small import CPU, TRAIN_CONFIG, checkpoint, same

SETTINGS = replace(DEFAULTS, threshold=0.001, batch_size=3)


@pytest.fixture(scope="module")
def training(prepared):
    return TrainingCamera.of_cache(open_cache(prepared / "cache"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, training):
    """Checkpoints of two folds of one model, and of another model."""
    folder = tmp_path_factory.mktemp("models")
    about = {"camera": training.to_json()}
    folds = [checkpoint(folder / f"{fold}.pt", {"fold": fold, **about}, seed=fold + 1) for fold in (0, 1)]
    return [*folds, checkpoint(folder / "other.pt", about, seed=3, neck_channels=24)]


@pytest.fixture
def files(prepared):
    folder = prepared / "data"
    return find_photos([folder / "test_images"]), camera.read_intrinsics(camera.intrinsics_file(folder))


def by_position(table):
    return table.sort_values(["ImageId", "x", "z"], ignore_index=True)


def test_defaults_are_those_of_the_workflow():
    predict = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["predict"]
    assert predict == vars(DEFAULTS) | {"mask_filter": True}
    assert (
        not DEFAULTS.mask_filter
        and Predict(flip=True, tta_rotations_deg=DEFAULTS.tta_rotations_deg) == DEFAULTS
    )


@pytest.mark.parametrize("turns", [[], DEFAULTS.tta_rotations_deg], ids=["one view", "two"])
def test_the_same_cars_as_from_the_cache(prepared, models, files, turns):
    photos, intrinsics = files
    settings = replace(SETTINGS, tta_rotations_deg=turns)
    networks, _ = load_networks(models[:2], CPU)
    expected, _ = predict_cars(networks, TRAIN_CONFIG, prepared / "cache", list(photos), CPU, settings)
    [member] = load_members([*map(str, models[:2])], CPU)
    tables = predict_members([member], photos, intrinsics, CPU, settings)
    same(by_position(tables[member.name]), by_position(expected))


def test_configurations_are_members_and_folds_are_averaged(models):
    members = load_members([*map(str, models)], CPU)
    assert [(member.name, len(member.networks)) for member in members] == [("0", 2), ("other", 1)]
    apart = load_members([f"a={models[0]}", f"b={models[1]}"], CPU)
    assert [(member.name, len(member.networks)) for member in apart] == [("a", 1), ("b", 1)]
    with pytest.raises(UserError, match=r"a=.*other.pt: a is the name of an earlier checkpoint"):
        load_members([f"a={models[0]}", f"a={models[2]}"], CPU)
    with pytest.raises(UserError, match="'=x.pt': give each checkpoint as PATH, or NAME=PATH"):
        load_members(["=x.pt"], CPU)


def test_names_of_the_workflow(tmp_path):
    assert name_of(tmp_path / "round1" / "dla34" / "fold0" / "model.pt") == "round1/dla34"
    assert name_of(tmp_path / "mine.pt") == "mine"


def test_two_configurations_of_one_file_name(tmp_path, training):
    paths = [tmp_path / name / "model.pt" for name in "ab"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        checkpoint(path, {"camera": training.to_json()}, epochs=number + 1)
    assert [member.name for member in load_members([*map(str, paths)], CPU)] == ["model", str(paths[1])]


def test_a_damaged_camera(tmp_path):
    path = checkpoint(tmp_path / "a.pt", {"camera": {"view": [1]}})
    with pytest.raises(UserError, match=r"a.pt: the camera in it is missing or invalid"):
        load_members([str(path)], CPU)


def table(scores, image_id="a"):
    rows = [
        [image_id, 0.1, 0.2, 3.1, number * 5.0, 3.0, 20.0, score, 0.1] for number, score in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["ImageId", *cars.POSE, "score", "depth_sigma"])


def test_thresholds():
    one = {"a": table([0.2, 0.31, 0.9])}
    assert fuse_members(one)["score"].tolist() == [0.9, 0.31] and THRESHOLD == 0.3
    assert fuse_members(one, threshold=0.1)["score"].tolist() == [0.9, 0.31, 0.2]
    fit = Fit(members={"a": NEUTRAL}, thresholds={"plain": 0.5})
    assert fuse_members(one, fit)["score"].tolist() == [0.9]
    assert len(fuse_members(one, fit, threshold=0.25)) == 2
    two = one | {"b": table([0.8, 0.1, 0.9])}
    fused = fuse(two)
    assert "above_threshold" not in fuse_members(two)
    np.testing.assert_allclose(
        fuse_members(two)["score"], sorted(fused["score"][fused["score"] >= 0.3])[::-1]
    )


def test_a_fit_of_other_members():
    fit = Fit(members={"round0/dla34": NEUTRAL})
    [member] = [type("Member", (), {"name": "model"})]
    with pytest.raises(
        UserError, match=r"no member model, only round0/dla34; give each checkpoint as NAME=PATH"
    ):
        check_names([member], fit)


def test_command_line(prepared, models, tmp_path):
    data = prepared / "data"
    inputs = ["--photos", data / "test_images", "--intrinsics", camera.intrinsics_file(data), "--gpus", 0]
    options = ["--checkpoint", *models, *inputs, "--threshold", 0.001, "--flip", "false"]
    done = run_module(
        *("carpose.predict", "photos", *options, "--tta-rotations-deg", 0, 0, 0),
        *("--output", tmp_path / "cars.csv", "--overlays", tmp_path / "overlays"),
    )
    found = cars.read_csv(tmp_path / "cars.csv")
    assert f"cars.csv: {len(found)} cars on 4 photos" in done.stdout and len(found) > 0
    assert "photos: 100%" in done.stderr
    assert list(found)[:8] == ["ImageId", *cars.POSE, "score"]
    assert sorted(path.stem for path in (tmp_path / "overlays").iterdir()) == sorted(
        find_photos([data / "test_images"])
    )
    run_module(
        *("carpose.predict", "photos", *options, "--tta-rotations-deg", 0, 0, 0),
        *("--output", tmp_path / "cars.parquet"),
    )
    again = cars.read(tmp_path / "cars.parquet", scored=True)
    same(again, found)
    assert len(parquet.about(tmp_path / "cars.parquet")["image_ids"]) == 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"--output": "cars.txt"}, "--output cars.txt: name it .csv or .parquet"),
        ({"--intrinsics": "nowhere.txt"}, "nowhere.txt: cannot read the camera's intrinsics"),
        ({"--threshold": "30"}, "--threshold 30: a score is between 0 and 1"),
        ({"--fit": "nowhere.json"}, "nowhere.json: no such file"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(prepared, models, tmp_path, changes, message):
    options = {
        "--checkpoint": models[0],
        "--photos": prepared / "data" / "test_images",
        "--intrinsics": camera.intrinsics_file(prepared / "data"),
        "--output": tmp_path / "cars.csv",
    }
    words = [word for option in (options | changes).items() for word in option]
    done = run_module("carpose.predict", "photos", *words, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
