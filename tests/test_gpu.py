"""Tests that need a GPU; skipped without one."""

import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.data.loader import stream
from carpose.data.samples import Samples, normalised
from carpose.network import device
from carpose.predict.networks import forward, prepare_for_inference
from carpose.train.step import Training
from tests.heads.made_up import SIZE, batch_of_four, tensors
from tests.helpers import ENVIRONMENT, options

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
WIDTH, HEIGHT = 4 * SIZE[0], 4 * SIZE[1]
SMALL = TrainConfig(
    backbone="dla34", width=0.125, neck_channels=16, input_width=WIDTH, input_height=HEIGHT, batch_size=4
)
CPU = torch.device("cpu")
VISIBLE = {name: value for name, value in ENVIRONMENT.items() if name != "CUDA_VISIBLE_DEVICES"}


@pytest.fixture(scope="module")
def gpu():
    with device.acquire_device(1) as acquired:
        return acquired


def noise():
    return torch.randint(0, 255, (4, HEIGHT, WIDTH, 4), dtype=torch.uint8)


def batch(train_config, gpu):
    """Images of noise, and targets of a few cars."""
    targets = tensors(batch_of_four(train_config)[0])
    return noise().to(gpu), {name: value.to(gpu) for name, value in targets.items()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_with_and_without_a_cuda_graph_are_bit_identical(gpu, optimizer):
    train_config = replace(SMALL, optimizer=optimizer)
    batches = [batch(train_config, gpu) for _ in range(6)]
    trainings = []
    for use_cuda_graph in (True, False):
        torch.manual_seed(0)
        training = Training(train_config, None, gpu, use_cuda_graph)
        training.values = [training.step(*one, 1e-3)() for one in batches]
        trainings.append(training)
    one, other = trainings
    assert one.cuda_graph.graphs and all(one.cuda_graph.graphs.values()) and other.cuda_graph is None
    assert one.values == other.values
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_losses_do_not_depend_on_steps_in_flight(gpu):
    batches = [batch(SMALL, gpu) for _ in range(6)]
    losses = []
    for max_in_flight in (0, 1):
        training, results, values = Training(SMALL, None, gpu), [], []
        for one in batches:
            results.append(training.step(*one, 1e-3))
            while len(results) > max_in_flight:
                values.append(results.pop(0)())
        losses.append(values + [result() for result in results])
    assert losses[0] == losses[1]


def test_a_function_that_waits_for_the_gpu_cannot_be_recorded():
    """In a separate process, because a failed capture damages torch's allocator."""
    code = "from carpose.network.graphs import Recorded; import torch"
    code += "; f = Recorded(lambda x: x * float(x.sum())); x = torch.ones(3, device='cuda')"
    code += "; f(x=x); print(f(x=x).tolist()); f(x=x)"
    done = subprocess.run([sys.executable, "-c", code], env=VISIBLE, capture_output=True, text=True)
    assert done.stdout.strip() == "[3.0, 3.0, 3.0]" and done.returncode
    assert "UserError: this GPU's work cannot be recorded" in done.stderr
    assert "cuda_graphs: false" in done.stderr


def test_predictions_of_gpu_and_cpu_agree(gpu):
    train_config = replace(SMALL, amp="off")
    training = Training(train_config, None, gpu)
    images = [noise().to(gpu) for _ in range(4)]
    cells = torch.arange(30, device=gpu)
    model = prepare_for_inference(training.model, train_config, gpu)
    replayed = [forward(model, one, train_config, gpu) for one in images]  # the last ones are CUDA graphs
    torch.backends.cudnn.allow_tf32 = False
    exact = prepare_for_inference(training.model, train_config, gpu)
    on_cpu = prepare_for_inference(training.model.cpu(), train_config, CPU)
    for one, prediction in zip(images, replayed, strict=True):
        same = forward(model.predictor, one, train_config, gpu)
        other = forward(on_cpu, one.cpu(), train_config, CPU)
        near = forward(exact, one, train_config, gpu)
        torch.testing.assert_close(near.heatmap.cpu(), other.heatmap, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(prediction.heatmap, same.heatmap, rtol=1e-2, atol=1e-4)
        for name, value in other.outputs_at(cells.cpu()).items():
            torch.testing.assert_close(near.outputs_at(cells)[name].cpu(), value, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(
                prediction.outputs_at(cells)[name], same.outputs_at(cells)[name], rtol=1e-2, atol=1e-3
            )
    torch.backends.cudnn.allow_tf32 = True


def test_batches_on_the_gpu_are_those_of_the_cpu(gpu, prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    train_config = replace(SMALL, batch_size=2)
    samples = Samples(prepared / "cache", sorted(labels.ImageId.unique()), labels, train_config)
    on_gpu = list(stream(samples, range(1), 0, gpu, workers=2, fixed_shape=True))
    on_cpu = list(stream(samples, range(1), 0, CPU))
    assert len(on_gpu) == len(on_cpu) > 3
    for (images, targets, names), (expected, plain, same) in zip(on_gpu, on_cpu, strict=True):
        assert names == same
        torch.testing.assert_close(normalised(images, train_config).cpu(), expected, rtol=1e-5, atol=1e-5)
        count = len(plain["cell"])
        assert targets["cell"].tolist()[:count] == plain["cell"].tolist()
        assert float(targets["weight"].sum()) == pytest.approx(float(plain["weight"].sum()))


def test_a_stopped_training_resumes_and_ends_bit_identical(prepared, tmp_path):
    def command(folder):
        folder.mkdir(exist_ok=True)
        more = ("--backbone", "hourglass", "--batch-size", 1, "--epochs", 4, "--workers", 2)
        return [sys.executable, "-m", *map(str, options(prepared, folder, *more))]

    process = {"env": VISIBLE, "stdout": subprocess.PIPE, "text": True}
    complete = subprocess.run(command(tmp_path / "complete"), check=True, **process)
    assert "computing on cuda" in complete.stdout and "warning" not in complete.stdout
    stopped = subprocess.Popen(command(tmp_path / "stopped"), **process)
    while "epoch 2/4" not in stopped.stdout.readline():
        assert stopped.poll() is None
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 143
    assert "going on at epoch" in subprocess.run(command(tmp_path / "stopped"), check=True, **process).stdout
    models = [(tmp_path / name / "model.pt").read_bytes() for name in ("complete", "stopped")]
    assert models[0] == models[1]
