"""OpenVINO: the same maps and cars as with torch, the exported file, and the error without the package."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.export.openvino import write
from carpose.network.checkpoint import build, load_checkpoint, save_checkpoint
from carpose.predict.networks import flipped_forward, load_networks
from carpose.predict.openvino import Network, import_openvino
from models.predictor import Predictor
from tests.helpers import ENVIRONMENT, run_module

TRAIN_CONFIG = TrainConfig(backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64)
CPU = torch.device("cpu")
installed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (the extra `runtime`)"
)


def varied_network(train_config: TrainConfig) -> torch.nn.Module:
    """An untrained network whose outputs vary from cell to cell."""
    model = build(train_config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("output.weight"):
                parameter.mul_(2000)
    return model.eval()


def checkpoint(path, **changes):
    """`seed` changes the weights, but not the training configuration in the file."""
    train_config = replace(TRAIN_CONFIG, **changes)
    save_checkpoint(
        path, varied_network(train_config).state_dict(), replace(train_config, seed=0), {"data": "its digest"}
    )
    return path


def same(a, b):
    """The tables agree, up to the order of cars with almost equal scores."""
    order = ["ImageId", "x", "z"]
    a, b = (table.sort_values(order).reset_index(drop=True) for table in (a, b))
    assert len(a) == len(b) > 0 and (a.ImageId == b.ImageId).all()
    numbers = [name for name in a if name != "ImageId"]
    np.testing.assert_allclose(a[numbers], b[numbers], rtol=1e-3, atol=1e-3)


@installed
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backbone": "efficientnet_lite0", "width": 0.5},
        {"backbone": "hourglass", "stacks": 2},
        {"norm": "group"},
        {"mask_channel": True},
        {"input_height": 72},
    ],
    ids=str,
)
def test_outputs_agree_with_torch(change):
    train_config = replace(TRAIN_CONFIG, **change)
    model = varied_network(train_config)
    network = Network(model, train_config).eval()
    for batch in (3, 1):
        images = torch.randint(
            0, 255, (batch, train_config.input_height, train_config.input_width, 4), dtype=torch.uint8
        )
        expected = flipped_forward(Predictor(model), images, replace(train_config, amp="off"), CPU)
        prediction = flipped_forward(network, images, train_config, CPU)
        cells = torch.arange(expected.heatmap.numel())
        ours = {"heatmap": prediction.heatmap, **prediction.outputs_at(cells)}
        for name, values in {"heatmap": expected.heatmap, **expected.outputs_at(cells)}.items():
            assert values.max() - values.min() > 1e-3
            torch.testing.assert_close(ours[name], values, rtol=1e-4, atol=1e-4, msg=name)


@installed
def test_tables_of_cars_agree_with_torch(prepared, tmp_path):
    models = [checkpoint(tmp_path / f"fold{fold}.pt", seed=fold, amp="off") for fold in (0, 1)]
    for runtime in ("torch", "openvino"):
        tables = {name: tmp_path / f"{runtime}-{name}.parquet" for name in ("oof", "test", "test-folds")}
        run_module(
            *("carpose.predict", "dataset", "--checkpoints", *models, "--cache", prepared / "cache"),
            *("--images", prepared / "images.parquet", "--folds", prepared / "folds.parquet"),
            *("--runtime", runtime, "--threshold", 0.001, "--batch-size", 3, "--flip", "--gpus", 0),
            *(word for name, path in tables.items() for word in (f"--{name}", path)),
        )
    for name in tables:
        ours, theirs = (pd.read_parquet(tmp_path / f"{r}-{name}.parquet") for r in ("openvino", "torch"))
        same(ours, theirs)


@installed
@pytest.mark.parametrize("batch", [1, 4])
def test_written_file_gives_the_same_maps(tmp_path, batch):
    path = checkpoint(tmp_path / "model.pt")
    output = tmp_path / "export" / "model.xml"
    run_module("carpose.export", "--checkpoint", path, "--output", output)
    assert sorted(file.name for file in output.parent.iterdir()) == ["model.bin", "model.xml"]
    core = import_openvino().Core()
    written = core.read_model(output)
    images = torch.randn(batch, 64, 192, 3)
    model, train_config, provenance = load_checkpoint(path)
    with torch.inference_mode():
        expected = model.eval()(images.permute(0, 3, 1, 2))[-1]
    compiled = core.compile_model(written, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    maps = compiled({"images": images.numpy()})
    for name, values in expected.items():
        np.testing.assert_allclose(maps[name], values, rtol=1e-4, atol=1e-4)
    about = {
        key: written.get_rt_info(["carpose", key]).value for key in ("train_config", "digest", "provenance")
    }
    assert (
        json.loads(about["train_config"]) == asdict(train_config) and about["digest"] == train_config.digest()
    )
    assert json.loads(about["provenance"]) == provenance and provenance["data"] == "its digest"


@installed
def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "model.pt")

    def half_written(model, graph, **options):
        graph.write_text("half")
        graph.with_suffix(".bin").write_text("half")
        raise OSError("no space")

    monkeypatch.setattr(import_openvino(), "save_model", half_written)
    with pytest.raises(OSError, match="no space"):
        write(path, tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_missing_package_is_an_error_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = checkpoint(tmp_path / "model.pt")
    for call in (
        lambda: write(path, tmp_path / "model.xml"),
        lambda: load_networks([path], CPU, "openvino"),
    ):
        with pytest.raises(UserError, match=r"OpenVINO cannot be imported .*`pip install openvino`.*torch"):
            call()
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert isinstance(load_networks([path], CPU)[0][0], Predictor)


def test_prediction_with_torch_does_not_import_openvino():
    """Nor carpose.export."""
    code = "import sys, carpose.predict.__main__ as _; names = {'openvino', 'carpose.export'}"
    code += "; sys.exit(bool(names & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0
