"""An ONNX file: torch's maps, torch's cars, what it says of itself."""

import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from carpose.core.errors import UserError
from carpose.data.cache import open_cache
from carpose.data.training_camera import TrainingCamera
from carpose.export.onnx import write
from carpose.export.verify import Comparison, OnnxNetwork, compare, verify
from carpose.geometry import camera
from carpose.heads.head import make_heads
from carpose.network.checkpoint import build, load_checkpoint
from carpose.predict.networks import flipped_forward
from models.predictor import Predictor
from tests.export.test_export import CPU, TRAIN_CONFIG, checkpoint
from tests.helpers import POSES, run_module

installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))),
    reason="onnx and onnxruntime are not installed (the extra `onnx`)",
)


@installed
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backbone": "efficientnet_lite0", "width": 0.5},
        {"backbone": "hourglass", "stacks": 2, "modules": 1},
        {"norm": "group", "heads": ["height"]},
        {"mask_channel": True, "input_height": 72},
    ],
    ids=str,
)
def test_its_maps_are_those_of_torch(tmp_path, change):
    import onnxruntime

    path = checkpoint(tmp_path / "model.pt", **change)
    write(path, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    model, train_config, provenance = load_checkpoint(path)
    channels = 4 if train_config.mask_channel else 3
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3):
        images = torch.randn(batch, train_config.input_height, train_config.input_width, channels)
        with torch.inference_mode():
            expected = model.eval()(images.permute(0, 3, 1, 2))[-1]
        assert names == list(expected)
        for name, values in zip(names, session.run(None, {"images": images.numpy()}), strict=True):
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert (
        json.loads(said["train_config"]) == asdict(train_config) and said["digest"] == train_config.digest()
    )
    assert json.loads(said["provenance"]) == provenance
    assert f"(batch, {train_config.input_height}, {train_config.input_width}, {channels})" in said["input"]
    assert np.array(json.loads(said["map_intrinsics"])).shape == (3, 3) and "logits" in said["outputs"]


@installed
def test_verified_on_photos(prepared, tmp_path):
    training = TrainingCamera.of_cache(open_cache(prepared / "cache")).to_json()
    path = checkpoint(tmp_path / "model.pt", seed=1)
    content = torch.load(path, weights_only=True)
    content["provenance"]["camera"] = training
    torch.save(content, path)
    other = checkpoint(tmp_path / "other.pt", seed=2)
    data = prepared / "data"
    intrinsics = camera.intrinsics_file(data)
    options = ["--checkpoint", path, "--output", tmp_path / "net.onnx", "--intrinsics", intrinsics]
    done = run_module("carpose.export", *options, "--verify", data / "test_images", check=False)
    assert (
        "net.onnx: not verified: neither finds a car on these photos" in done.stdout and done.returncode == 1
    )
    photos = [data / "test_images"]
    comparison = verify(path, tmp_path / "net.onnx", photos, intrinsics, threshold=0.001)
    assert comparison.agrees() and comparison.cars > 0
    assert not verify(other, tmp_path / "net.onnx", photos, intrinsics, threshold=0.001).agrees()


@pytest.mark.parametrize(
    "output, more, message",
    [
        ("net.pb", [], "--output net.pb: name it .onnx, or .xml for OpenVINO"),
        ("net.xml", ["--verify", "a.jpg"], "--verify: is for .onnx"),
        ("net.onnx", ["--verify", "a.jpg"], "--verify: give the camera of these photos with --intrinsics"),
    ],
)
def test_options_that_do_not_fit(tmp_path, output, more, message):
    done = run_module(
        *("carpose.export", "--checkpoint", "a.pt", "--output", output, *more), check=False, cwd=tmp_path
    )
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.iterdir())


def test_without_the_package_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = checkpoint(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"onnx cannot be imported .*`pip install onnx onnxruntime`"):
        write(path, tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_its_network_is_used_as_torch_s_is(monkeypatch):
    """Also where ONNX Runtime is not installed: a made-up runtime that gives the maps of torch."""
    model = build(TRAIN_CONFIG).eval()

    class Session:
        def __init__(self, *args, **kwargs):
            pass

        def get_outputs(self):
            return [SimpleNamespace(name=name) for name in make_heads(TRAIN_CONFIG)]

        def run(self, names, inputs):
            with torch.inference_mode():
                maps = model(torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2))[-1]
            return [maps[name].numpy() for name in names]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    images = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    config = replace(TRAIN_CONFIG, amp="off")
    ours, expected = (
        flipped_forward(network, images, config, CPU)
        for network in (OnnxNetwork(Path("net.onnx")), Predictor(model))
    )
    torch.testing.assert_close(ours.heatmap, expected.heatmap)
    cells = torch.tensor([5, 700, 1200])
    outputs = ours.outputs_at(cells)
    for name, values in expected.outputs_at(cells).items():
        torch.testing.assert_close(outputs[name], values, rtol=1e-4, atol=1e-5)


def test_cars_are_compared_by_place_and_nothing_else():
    table = POSES.drop(columns="model_type").assign(score=[0.9, 0.8, 0.7])
    equal = compare(table, table.iloc[::-1])
    assert equal.agrees() and equal.cars == 3 and equal.alone == 0
    assert compare(table, table.iloc[1:]).alone == 1 and compare(table.iloc[:0], table).alone == 3
    assert not compare(table, table.assign(score=[0.9, 0.8, 0.75])).agrees()
    near = compare(table, table.assign(z=table["z"] + [0.0, 0.004, 0.0]))
    assert near.agrees() and near.distance == pytest.approx(0.004 / 41, rel=0.02)
    assert not compare(table, table.assign(z=table["z"] + [0.0, 0.2, 0.0])).agrees()
    assert not compare(table, table.assign(yaw=table["yaw"] + 0.01)).agrees()
    nothing = compare(table.iloc[:0], table.iloc[:0])
    assert nothing == Comparison(0, 0, 0.0, 0.0, 0.0) and not nothing.agrees()
