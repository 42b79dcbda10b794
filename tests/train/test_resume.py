"""A training that is stopped after any batch and goes on from its state ends as one that was not stopped."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from carpose.config.sections import Running
from carpose.config.train_config import TrainConfig
from carpose.data.samples import Samples
from carpose.train.loop import Interrupted, Log, train
from carpose.train.state import Saver
from carpose.train.step import Training

CPU = torch.device("cpu")
# Different batches in every epoch, and an average that differs from the network from the second step on.
CONFIG = TrainConfig(
    backbone="dla34", width=0.125, neck_channels=16, input_width=128, input_height=64, batch_size=2, epochs=2
)
CONFIG = replace(CONFIG, ema_decay=0.5, optimizer="adamw")
STEPS = 3  # per epoch


@pytest.fixture(scope="module")
def samples(prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    names = sorted(labels.ImageId.unique())[: 2 * STEPS]
    return Samples(prepared / "cache", names, labels, CONFIG)


class StopAfter(Training):
    """Asks its saver to stop after so many steps, as a signal during the step would, and keeps all losses."""

    def __init__(self, steps, saver):
        torch.manual_seed(0)
        super().__init__(CONFIG, None, CPU)
        self.left, self.saver, self.losses = steps, saver, []

    def step(self, *args):
        self.left -= 1
        self.saver.signalled = self.left == 0
        result = super().step(*args)

        def kept():
            self.losses.append(result()["loss"])
            return result()

        return kept


def result(training):
    """The averaged network, and the history without what differs between two runs."""
    history = pd.DataFrame(training.progress.history).drop(columns=["seconds", "cpu_seconds"])
    return training.ema.module.state_dict(), history


@pytest.fixture
def signals():
    """The handlers of signals, which a Saver replaces, are put back."""
    import signal

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def run(samples, path, stop_after):
    """Train with a stop after so many steps, and again from the state, to the end."""
    running = Running(save_minutes=1000, validate_every=0)
    for steps in [stop_after, 0] if stop_after else [0]:
        saver = Saver(path, "digest", 1000, print)
        training = StopAfter(steps, saver)
        if saved := saver.load():
            torch.manual_seed(1)  # a new process has other random numbers
            training.restore(saved)
        try:
            train(training, samples, STEPS, running, saver, Log("test"), lambda: {"mAP": 0.0})
        except Interrupted:
            assert steps == stop_after
    assert training.progress.epoch == CONFIG.epochs
    return training


def test_stopped_after_any_batch(samples, tmp_path, signals):
    weights, history = result(run(samples, tmp_path / "undisturbed.pt", 0))
    random = torch.get_rng_state()
    for stop_after in range(1, 2 * STEPS):
        resumed = run(samples, tmp_path / f"{stop_after}.pt", stop_after)
        assert torch.equal(torch.get_rng_state(), random)
        resumed_weights, resumed_history = result(resumed)
        for name, value in weights.items():
            assert torch.equal(resumed_weights[name], value), (stop_after, name)
        pd.testing.assert_frame_equal(resumed_history, history, check_exact=True)


def test_the_history_has_each_epoch_s_mean_losses(samples, tmp_path, signals):
    training = run(samples, tmp_path / "state.pt", 0)
    means = [sum(training.losses[:STEPS]) / STEPS, sum(training.losses[STEPS:]) / STEPS]
    assert [row["loss"] for row in training.progress.history] == pytest.approx(means)
    assert means[0] != pytest.approx(means[1])
