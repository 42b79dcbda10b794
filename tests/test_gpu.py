"""What only a GPU shows; skipped without one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from benchmarks import roofline
from carpose.config.recipe import Recipe
from carpose.data import samples as data
from carpose.network import device
from carpose.predict import predict
from carpose.train.step import Training
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SMALL = Recipe(
    backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64, batch_size=2
)


@pytest.fixture(scope="module")
def gpu():
    with device.lease(1) as found:
        return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_replayed_steps_give_the_bits_of_single_operations(gpu, optimizer):
    recipe = replace(SMALL, optimizer=optimizer)
    batches = [roofline.constant_batch(recipe, gpu) for _ in range(6)]
    trainings = []
    for recorded in (True, False):
        torch.manual_seed(0)
        training = Training(recipe, False, None, gpu)
        if not recorded:
            training.recorded = None
        training.values = [training.step(*batch, 1e-3)() for batch in batches]
        trainings.append(training)
    one, other = trainings
    assert one.recorded.graphs and all(one.recorded.graphs.values())
    assert one.values == other.values
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_a_step_may_start_before_the_last_one_is_read(gpu):
    batches = [roofline.constant_batch(SMALL, gpu) for _ in range(6)]
    found = []
    for ahead in (0, 1):
        training, results, values = Training(SMALL, False, None, gpu), [], []
        for batch in batches:
            results.append(training.step(*batch, 1e-3))
            while len(results) > ahead:
                values.append(results.pop(0)())
        found.append(values + [result() for result in results])
    assert found[0] == found[1]


def test_what_waits_for_the_gpu_cannot_be_recorded():
    """In a process of its own, since it damages torch's memory."""
    code = "from carpose import graphs; import torch; f = graphs.Recorded(lambda x: x * float(x.sum()))"
    code += "; x = torch.ones(3, device='cuda'); f(x=x); print(f(x=x).tolist()); f(x=x)"
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    options = {"env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.stdout.strip() == "[3.0, 3.0, 3.0]" and done.returncode
    assert "UserError: this GPU's work cannot be recorded" in done.stderr and "graphs: false" in done.stderr


def test_predictions_replayed_and_on_the_cpu(gpu):
    recipe = replace(SMALL, amp="off")
    training = Training(recipe, False, None, gpu)
    pictures = [roofline.constant_batch(recipe, gpu)[0] for _ in range(4)]
    cells = torch.arange(30, device=gpu)
    model = predict.placed(training.model, recipe, gpu, "torch")
    sights = [predict.forward(model, each, recipe, gpu) for each in pictures]  # the last ones replayed
    torch.backends.cudnn.allow_tf32 = False
    exact = predict.placed(training.model, recipe, gpu, "torch")
    on_cpu = predict.placed(training.model.cpu(), recipe, torch.device("cpu"), "torch")
    for each, sight in zip(pictures, sights, strict=True):
        same = predict.forward(model.predictor, each, recipe, gpu)
        other = predict.forward(on_cpu, each.cpu(), recipe, torch.device("cpu"))
        near = predict.forward(exact, each, recipe, gpu)
        torch.testing.assert_close(near.heatmap.cpu(), other.heatmap, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(sight.heatmap, same.heatmap, rtol=1e-2, atol=1e-4)
        for name, value in other.poses(cells.cpu()).items():
            torch.testing.assert_close(near.poses(cells)[name].cpu(), value, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(
                sight.poses(cells)[name], same.poses(cells)[name], rtol=1e-2, atol=1e-3
            )
    torch.backends.cudnn.allow_tf32 = True


def test_batches_on_their_way_are_those_that_were_made(gpu, prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique()), labels, SMALL)
    there = list(data.stream(samples, 0, 0, 2, gpu))
    here = list(data.stream(samples, 0, 0, 0, torch.device("cpu")))
    assert len(there) == len(here) > 3
    for (pictures, targets, names), (normalised, plain, same) in zip(there, here, strict=True):
        assert names == same
        torch.testing.assert_close(data.normalised(pictures, SMALL).cpu(), normalised, rtol=1e-5, atol=1e-5)
        count = len(plain["cell"])
        assert targets["cell"].tolist()[:count] == plain["cell"].tolist()
        assert float(targets["weight"].sum()) == pytest.approx(float(plain["weight"].sum()))


def test_killed_a_training_goes_on_and_ends_bit_identical(prepared, tmp_path):
    def command(folder):
        folder.mkdir(exist_ok=True)
        words = ["carpose.train", "--cache", prepared / "cache", "--fold", 0, "--workers", 2]
        words += [f"--{name}={prepared / name}.parquet" for name in ("images", "labels", "folds")]
        words += ["--output", folder / "model.pt", "--history", folder / "history.csv"]
        words += ["--state", folder / "state.pt", "--backbone", "hourglass", "--width", 0.125]
        words += ["--neck-channels", 16, "--input-width", 192, "--input-height", 64, "--batch-size", 1]
        return [sys.executable, "-m", *map(str, words), "--epochs", "4"]

    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    options = {"env": {**os.environ, "PYTHONPATH": path}, "stdout": subprocess.PIPE, "text": True}
    whole = subprocess.run(command(tmp_path / "whole"), check=True, **options)
    assert "computing on cuda" in whole.stdout and "warning" not in whole.stdout
    cut = subprocess.Popen(command(tmp_path / "cut"), **options)
    while "epoch 2/4" not in cut.stdout.readline():
        assert cut.poll() is None
    cut.send_signal(signal.SIGTERM)
    assert cut.wait(60) == 143
    assert "going on at epoch" in subprocess.run(command(tmp_path / "cut"), check=True, **options).stdout
    models = [(tmp_path / name / "model.pt").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
