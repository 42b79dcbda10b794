"""Photos without cars, at the limits and beyond: losses are finite, the metric defined, the pipeline ends."""

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from carpose import metric
from carpose.config.train_config import TrainConfig
from carpose.core import cars, parquet
from carpose.data import __main__ as data_command
from carpose.evaluation import __main__ as evaluation_command
from carpose.evaluation.scores import evaluate
from carpose.fuse import __main__ as fuse_command
from carpose.fuse import fit as fit_command
from carpose.geometry import camera
from carpose.heads.depth import PARAMETRISATIONS
from carpose.kaggle import __main__ as kaggle_command
from carpose.kaggle.submission import validate
from carpose.kaggle.tables import read_sample
from carpose.predict import __main__ as predict_command
from carpose.pseudo import __main__ as pseudo_command
from carpose.train import __main__ as train_command
from tests.heads.made_up import (
    INTRINSICS,
    SIZE,
    decoded,
    encoded,
    losses_of,
    perfect_maps,
    random_maps,
    zero_maps,
)
from tests.helpers import PREDICTED, TINY, folds_of, write_csv
from tests.helpers import scene as street_scene


def crowd(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cars side by side and behind each other, all in view."""
    rng = np.random.default_rng(0)
    z = rng.uniform(10, 60, count)
    return np.column_stack([rng.uniform(-0.4, 0.4, count) * z, 1.5 + 0.16 * z, z]), np.stack(
        [np.eye(3)] * count
    )


NOTHING = np.empty((0, 3)), np.empty((0, 3, 3))
CARS = {
    "no car": NOTHING,
    "one": crowd(1),
    "two in one cell": tuple(np.concatenate([part, part]) for part in crowd(1)),
    "500": crowd(500),
    "far outside": (np.array([[1e4, 1.0, 10.0], [0.0, -1e4, 10.0]]), np.stack([np.eye(3)] * 2)),
    "at the camera": (np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 1e-9]]), np.stack([np.eye(3)] * 2)),
    "kilometres away": (np.array([[0.0, 800.0, 5000.0]]), np.eye(3)[None]),
}


@pytest.mark.parametrize("heatmap_loss", ["focal", "bce"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "all masked"])
@pytest.mark.parametrize("name", CARS)
def test_losses_and_gradients_are_finite(name, masked, heatmap_loss):
    for depth in PARAMETRISATIONS:
        train_config = TrainConfig(heads=["height"], depth=depth, heatmap_loss=heatmap_loss)
        targets = encoded(*CARS[name], train_config)
        if masked:
            targets["ignore"][:] = True
            targets["ignore"].reshape(-1)[targets["peak"]] = False
        maps = {head: value.requires_grad_() for head, value in random_maps(train_config).items()}
        losses = losses_of([maps], targets, train_config)
        assert all(value.isfinite() for value in losses.values()), losses
        sum(losses.values()).backward()
        assert all(value.grad is None or value.grad.isfinite().all() for value in maps.values())


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom", "corner"])
def test_a_car_at_the_edge_of_the_frame_is_learnt_and_decoded(side):
    """Its centre in the outermost cells, where part of the 3×3 cells around it lies outside."""
    last, bottom = SIZE[0] - 0.6, SIZE[1] - 0.6
    uv = {"left": (-0.4, 20), "right": (last, 20), "top": (60, -0.4), "bottom": (60, bottom)}
    xyz = camera.backproject(INTRINSICS, np.array([uv.get(side, (last, bottom))]), np.array([20.0]))
    train_config = TrainConfig()
    targets = encoded(xyz, np.eye(3)[None], train_config)
    assert len(targets["peak"]) == 1 and len(targets["cell"]) == (4 if side == "corner" else 6)
    found = decoded(perfect_maps(targets, train_config), train_config, 0.99)
    np.testing.assert_allclose(found["xyz"], xyz, rtol=1e-4)
    beyond = camera.backproject(INTRINSICS, np.array([[SIZE[0] + 0.1, 20.0]]), np.array([20.0]))
    assert len(encoded(beyond, np.eye(3)[None], train_config)["peak"]) == 0


@pytest.mark.parametrize(("limit", "expected"), [(64, 64), (1, 1), (500, 500), (10000, 512)])
def test_of_too_many_cars_those_with_the_highest_scores_are_kept(limit, expected):
    maps = zero_maps(TrainConfig())
    scores = torch.linspace(0.1, 0.9, 512).reshape(16, 32)
    maps["heatmap"][0, 0, 2:34:2, 2:66:2] = scores  # apart, so that each is a peak
    found = decoded(maps, TrainConfig(), 0.05, limit)
    assert len(found["score"]) == expected
    np.testing.assert_allclose(found["score"], np.sort(scores.flatten().numpy())[::-1][:expected])


def test_the_metric_is_defined_for_any_folds():
    """A fold without cars, one without predictions, one image, and none of anything."""
    truth = street_scene(6, np.random.default_rng(0), per_image=3)
    predictions = truth.assign(score=0.5)
    folds = folds_of(truth, 3)
    with_cars = truth[truth["ImageId"].isin(folds["ImageId"][folds["fold"] < 2])]
    assert metric.evaluate_folds(with_cars, predictions, folds) > 0.5
    assert metric.evaluate_folds(truth, predictions[:0], folds) == 0
    assert metric.evaluate_folds(truth[:0], predictions, folds) == 0
    for labels, member in (
        (with_cars, predictions),
        (truth[:3], truth[:0].assign(score=0.0)),
        (truth, predictions),
    ):
        table, bands = evaluate(labels, folds, {"a": member}, samples=5)
        assert np.isfinite(table.drop(columns="name").to_numpy(float)).all(), table
        assert len(bands) == 6
    one = folds[:1].assign(fold=0)
    table, _ = evaluate(truth, one, {"a": predictions}, samples=5)
    assert table["oof_mAP"][0] == 1 and table["oof_sd"][0] == 0


# All stages


def draw_photo(path: Path, number: int) -> None:
    blocks = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(blocks, (160, 120), interpolation=cv2.INTER_CUBIC))


def car(x: float, z: float) -> str:
    return f"16 0.15 -1.5 -3.1 {x:.3f} {1.5 + 0.16 * z:.3f} {z:.3f}"


@pytest.fixture
def odd_data(tmp_path) -> Path:
    """Photos without a car, with cars of another fold alone, at the edge, in one cell, with 80 cars, and one
    that its mask covers."""
    folder = tmp_path / "data"
    (folder / "camera").mkdir(parents=True)
    (folder / "camera" / "camera_intrinsic.txt").write_text("fx = 110\nfy = 110\ncx = 79.5\ncy = 59.5\n")
    edge = 79.5 * 20 / 110
    rows = {
        "ID_none": "",
        "ID_edge": f"{car(edge, 20)} {car(-edge, 20)} {car(0, 9)}",
        "ID_cell": f"{car(1, 20)} {car(1.001, 20.02)}",
        "ID_many": " ".join(car(x, 10 + 2 * row) for row in range(8) for x in np.linspace(-5, 5, 10)),
        "ID_masked": car(2, 18),
        "ID_empty": "",
        "ID_void": "",
        "ID_blank": "",
    }
    write_csv(folder / "train.csv", list(rows.items()))
    write_csv(folder / "sample_submission.csv", [("ID_t0", PREDICTED), ("ID_t1", PREDICTED)])
    for number, name in enumerate(
        [*(f"train_images/{i}" for i in rows), "test_images/ID_t0", "test_images/ID_t1"]
    ):
        draw_photo(folder / f"{name}.jpg", number)
    for split, image_id in (("train", "ID_masked"), ("test", "ID_t1")):
        (folder / f"{split}_masks").mkdir()
        cv2.imwrite(str(folder / f"{split}_masks" / f"{image_id}.jpg"), np.full((120, 160), 255, np.uint8))
    return folder


@pytest.fixture
def handlers():
    """A training sets signal handlers and a number of threads."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_all_stages_end_on_odd_data(odd_data, tmp_path, run):
    """All cars are in fold 0, so that the network of fold 1 is validated on none, and that of fold 0 trained
    on none."""

    def command(main, *arguments):
        done = run(main, *arguments)
        assert done.status == 0, done
        return done

    images, labels, folds = (tmp_path / f"{name}.parquet" for name in ("images", "labels", "folds"))
    done = command(
        kaggle_command.main, "check", odd_data, "--images", images, "--labels", labels, "--jobs", 1
    )
    assert done.out.count("mask covers the whole photo") == 2
    cache = ("cache", "--data", odd_data, "--images", images, "--output", tmp_path / "cache", "--scale", 1)
    command(data_command.main, *cache, "--jobs", 1)
    command(
        data_command.main, "folds", "--images", images, "--labels", labels, "--output", folds, "--count", 2
    )
    table = parquet.read_folds(folds)
    with_cars = table["ImageId"].isin(cars.read(labels)["ImageId"])
    parquet.write(folds, table.assign(fold=np.where(with_cars, 0, 1)))

    tables = ("--images", images, "--folds", folds)
    models = []
    for fold in (0, 1):
        models.append(tmp_path / f"{fold}.pt")
        options = ("--output", models[-1], "--history", tmp_path / "h.csv", "--state", tmp_path / "state.pt")
        network = (*TINY.split(), "--epochs", 2, "--gpus", 0)
        inputs = ("--cache", tmp_path / "cache", "--labels", labels, *tables)
        command(train_command.main, *inputs, *options, *network, "--fold", fold)
        history = pd.read_csv(tmp_path / "h.csv")
        assert np.isfinite(history.to_numpy(float)).all(), history
    oof, test, test_folds = (tmp_path / f"{name}.parquet" for name in ("oof", "test", "test_folds"))
    outputs = ("--oof", oof, "--test", test, "--test-folds", test_folds)
    options = ("--threshold", 0.001, "--max-cars", 100, "--mask-filter", "--gpus", 0)
    command(
        predict_command.main,
        "dataset",
        "--checkpoints",
        *models,
        "--cache",
        tmp_path / "cache",
        *tables,
        *outputs,
        *options,
    )
    assert not (cars.read(test)["ImageId"] == "ID_t1").any(), "its mask covers it"
    fit, fused = tmp_path / "fit.json", tmp_path / "fused.parquet"
    command(
        fit_command.main,
        "--labels",
        labels,
        "--folds",
        folds,
        "--members",
        f"a={oof}",
        "--output",
        fit,
        "--fused-output",
        tmp_path / "fused_oof.parquet",
    )
    json.loads(fit.read_text(), parse_constant=pytest.fail)
    command(
        pseudo_command.main,
        "--labels",
        labels,
        "--folds",
        folds,
        "--fit-members",
        f"a={oof}",
        "--test-members",
        f"a={test_folds}",
        "--output",
        tmp_path / "pseudo.parquet",
        "--report",
        tmp_path / "pseudo.json",
    )
    command(fuse_command.main, "--inputs", f"a={test}", "--fit", fit, "--output", fused)
    command(
        evaluation_command.main,
        "--labels",
        labels,
        "--folds",
        folds,
        "--members",
        f"a={oof}",
        "--output",
        tmp_path / "evaluation.csv",
        "--samples",
        5,
    )
    scores = pd.read_csv(tmp_path / "evaluation.csv")
    assert scores[["oof_mAP", "oof_sd"]].notna().all(axis=None)
    submission, sample = tmp_path / "submission.csv", odd_data / "sample_submission.csv"
    command(kaggle_command.main, "write", fused, "--sample", sample, "--output", submission)
    assert validate(submission, read_sample(sample))[0] == []
