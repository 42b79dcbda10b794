"""Two processes on the CPU that share every batch train like one process."""

import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.network.checkpoint import build, load_checkpoint
from carpose.train import distributed
from tests.helpers import ENVIRONMENT, options, run_background, run_module

# With these options two trainings are equal up to rounding: Adam would divide by tiny gradients.
COMPARABLE = ("--norm", "group", "--batch-size", 4, "--optimizer", "sgd", "--lr", 0.01, "--amp", "off")


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run_module(*options(prepared, folder, *COMPARABLE))
    return folder


@pytest.fixture(scope="module")
def shared(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    done = run_module(*options(prepared, folder, *COMPARABLE, "--gpus", 2))
    return folder, done.stdout


@pytest.mark.slow
def test_two_processes_train_as_one(alone, shared):
    one, two = (pd.read_csv(folder / "history.csv") for folder in (alone, shared[0]))
    losses = ["loss", "heatmap", "offset", "depth", "rotation"]
    np.testing.assert_allclose(two[losses], one[losses], rtol=1e-4)
    assert two["mAP"].notna().sum() == len(two)
    state_dicts = [load_checkpoint(folder / "model.pt")[0].state_dict() for folder in (alone, shared[0])]
    for name, value in state_dicts[0].items():
        torch.testing.assert_close(state_dicts[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_only_the_main_process_writes(shared):
    folder, output = shared
    assert [line.count("] epoch ") for line in output.splitlines() if "] epoch " in line] == [1, 1, 1]
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.pt"]


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "efficientnet_lite0", "dla34", "hourglass"])
def test_batch_norms_over_all_processes_keep_their_activations(monkeypatch, backbone):
    model = build(TrainConfig(backbone=backbone, width=0.125, neck_channels=16)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = model(images)[-1]
        monkeypatch.setenv("WORLD_SIZE", "2")
        shared = distributed.sync_batch_norms(model, torch.device("cuda"))
        assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in shared.modules())
        for name, maps in shared(images)[-1].items():
            torch.testing.assert_close(maps, before[name], msg=name)


def test_a_batch_that_cannot_be_shared_is_an_error(prepared, tmp_path):
    done = run_module(*options(prepared, tmp_path, "--batch-size", 3, "--gpus", 2), check=False)
    assert done.returncode == 2 and "2 GPUs cannot share 3 photos" in done.stderr


@pytest.mark.slow
def test_a_stopped_training_resumes_with_other_processes(prepared, alone, tmp_path):
    """SIGTERM to torchrun, as Slurm sends it; then two nodes with one process each, that is two torchruns."""
    command = options(prepared, tmp_path, *COMPARABLE)
    process = run_background([*command, "--gpus", 2])
    while "epoch 1/3" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert (tmp_path / "state.pt").exists() and not (tmp_path / "model.pt").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1"]
    torchrun += ["--master-port", port, "--node-rank"]
    nodes = [run_background([*torchrun, number, "-m", *command]) for number in (0, 1)]
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "going on at epoch" in outputs[0] and not outputs[1]
    one, two = (load_checkpoint(folder / "model.pt")[0].state_dict() for folder in (alone, tmp_path))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options, passed_on", [(["-P"], "1"), ([], "")])
def test_torchrun_s_processes_inherit_safe_path(options, passed_on):
    code = "import os, torch; from carpose.train import distributed; torch.cuda.is_available = bool;"
    code += "os.execv = lambda *_: print('safe:', os.environ.get('PYTHONSAFEPATH', ''));"
    code += "distributed.launch(2, 'carpose.train')"
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"safe: {passed_on}\n"


BROADCAST = """
import pathlib, sys
import torch
import torch.distributed as dist
from carpose.train import distributed
from tests.helpers import Bomb
dist.init_process_group("gloo")
state = {"x": torch.arange(3), "rows": [{"mAP": 0.5}], "name": "a"}
value = distributed.broadcast_object(state if distributed.is_main_process() else None)
assert torch.equal(value["x"], torch.arange(3)) and value["rows"] == state["rows"] and value["name"] == "a"
assert distributed.broadcast_object(None) is None
try:
    distributed.broadcast_object(Bomb(pathlib.Path(sys.argv[1])))
except Exception as error:
    print(type(error).__name__, flush=True)
dist.destroy_process_group()
"""


def test_what_a_process_sends_cannot_run_code(tmp_path):
    (tmp_path / "broadcast.py").write_text(BROADCAST, encoding="utf-8")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = run_module(*torchrun, tmp_path / "broadcast.py", tmp_path / "ran")
    assert done.stdout.count("UnpicklingError") == 2 and not (tmp_path / "ran").exists()
