"""The training loop: epochs, validation, and a state file from which a killed training goes on."""

import itertools
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow
import torch
from tqdm import tqdm

from carpose.config.recipe import Recipe
from carpose.config.sections import Predict, Running
from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.core.version import provenance
from carpose.data.loader import stream
from carpose.data.samples import Batch, Samples
from carpose.heads import loss
from carpose.metric import evaluate
from carpose.network.checkpoint import save_checkpoint
from carpose.predict.cars import predict_cars
from carpose.predict.networks import placed

from . import distributed, material, state
from .log import Log
from .material import TrainFiles
from .optimizer import rate_schedule
from .step import Training

ROLLBACKS = 3  # times a training may go back after a loss that is not finite
MINUTE = 60  # seconds
VALIDATION = Predict(threshold=0.05, batch_size=8, flip=False, tta_rotations_deg=[], mask_filter=False)


class Interrupted(Exception):
    """SIGTERM came: the state is saved."""


class SignalFlag:
    """Remembers SIGTERM or SIGUSR1 (Slurm's warning before the end), so that a step is never cut in two."""

    def __init__(self):
        self.raised = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._raise)

    def _raise(self, number, frame):
        self.raised = True


class Saver:
    """The state file of one training: read for all processes, written by the main one."""

    def __init__(self, path: Path, digest: str, minutes: float, log: Log):
        """digest: what the state belongs to; minutes: between two states within an epoch."""
        self.path, self.digest, self.seconds, self.log = path, digest, MINUTE * minutes, log
        self.stop, self.saved_at = SignalFlag(), time.monotonic()

    def load(self) -> dict | None:
        main = distributed.is_main_process()
        return distributed.broadcast_object(state.load(self.path, self.digest) if main else None)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, training: Training) -> None:
        """A disk that is full for an hour costs the safety of that hour, not the training."""
        if distributed.is_main_process():
            try:
                state.save(self.path, self.digest, training.state())
            except OSError as error:
                self.log.say(f"warning: the state could not be saved, the one before is kept ({error})")
        self.saved_at = time.monotonic()


def run(
    files: TrainFiles, fold: int, recipe: Recipe, running: Running, device: torch.device, name: str = "train"
) -> None:
    """Train to the end, or raise Interrupted (state saved) or UserError (a loss that is not finite).

    fold: the one to validate on; name: in the log.
    """
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own keeps several times what tables take
    log = Log(name, files.events if running.tensorboard else None)
    learnt = material.load(files, fold, recipe)
    steps = max(learnt.labelled // recipe.batch_size, 1)  # of an epoch
    distributed.check(min(learnt.labelled, recipe.batch_size), distributed.size())
    saver = Saver(files.state, material.work_digest(files, fold, recipe), running.save_minutes, log)
    training = Training(recipe, files.start_weights, device, running.graphs)
    log.say(f"computing on {device} in {training.dtype or torch.float32}".replace("torch.", ""))
    saved = saver.load()
    if saved:
        training.restore(saved)
        log.say(f"going on at epoch {training.progress.epoch + 1}, batch {training.progress.batch}")

    def validate() -> float:
        model = placed(training.ema.module, recipe, device, "torch", running.graphs)
        options = {"workers": running.workers}
        found, _ = predict_cars([model], recipe, files.cache, learnt.valid_ids, device, VALIDATION, **options)
        return evaluate(cars.read(files.labels), found, image_ids=learnt.valid_ids)["mAP"]

    train(training, learnt.samples, steps, running, saver, log, validate)
    if distributed.is_main_process():
        with atomic(files.history) as temporary:
            pd.DataFrame(training.progress.history).to_csv(temporary, index=False)
        about = {"data": saver.digest, "fold": fold, "round": "later" if files.pseudo else "first"}
        save_checkpoint(files.output, training.ema.module.state_dict(), recipe, provenance() | about)
        state.remove(files.state)


def train(
    training: Training,
    samples: Samples,
    steps: int,
    running: Running,
    saver: Saver,
    log: Log,
    validate: Callable[[], float],
) -> None:
    """All epochs that are left, of so many steps each; validate: the metric on the fold's own photos."""
    recipe, device = training.recipe, training.device
    epochs = recipe.epochs
    rate_of = rate_schedule(recipe.schedule, epochs * steps, training.peak_rate, recipe.warmup)
    fixed_shape = training.recorded is not None
    rollbacks, batches = 0, None
    while (progress := training.progress).epoch < epochs:
        if batches is None:
            left = range(progress.epoch, epochs)
            options = {"workers": running.workers, "shard": distributed.shard, "fixed_shape": fixed_shape}
            batches = stream(samples, left, progress.batch, device, **options)
        began, cpu_began = time.monotonic(), time.process_time()
        try:
            train_epoch(training, batches, steps, rate_of, saver, log.name)
        except FloatingPointError as error:
            rollbacks += 1
            batches = None  # from where it goes on; the workers of before go first
            roll_back(training, error, saver, rollbacks, log)
            continue
        if progress.epoch + 1 == epochs:
            batches = None  # the workers go before those of the last validation come
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
        due = validation_due(progress.epoch + 1, epochs, running.validate_every)
        if due:
            saver.save(training)  # a validation can take longer than Slurm waits after SIGTERM
        row = close_epoch(training, steps, spent, validate if due else None)
        saver.save(training)
        log.epoch(row, epochs, loss.weights(recipe))


def validation_due(epoch: int, epochs: int, every: int) -> bool:
    """Whether the metric is measured after so many of the epochs: after the last one always."""
    return epoch == epochs or (every > 0 and epoch % every == 0)


def train_epoch(
    training: Training,
    batches: Iterator[Batch],
    steps: int,
    rate_of: Callable[[int], float],
    saver: Saver,
    label: str = "",
) -> None:
    """The rest of the current epoch of so many steps. rate_of: step of the training → learning rate.

    Raises FloatingPointError naming epoch, step and ImageIds; Interrupted after a signal.
    """
    progress = training.progress
    left = steps - progress.batch
    silent = not (sys.stderr.isatty() and distributed.is_main_process())
    rest = itertools.islice(batches, left)
    bar = tqdm(rest, total=left, desc=f"{label} {progress.epoch + 1}", disable=silent, leave=False)
    in_flight: deque[tuple] = deque()

    def drain(most: int) -> None:
        """Wait until no more than `most` steps are in flight; count the losses of the others."""
        while len(in_flight) > most:
            step, result, image_ids = in_flight.popleft()
            count_losses(training, step, result(), image_ids)

    for pictures, targets, image_ids in bar:
        result = training.step(pictures, targets, rate_of(progress.step) * progress.lr_scale)
        in_flight.append((progress.step, result, image_ids))
        drain(training.max_in_flight)
        progress.step += 1
        progress.batch += 1
        if not silent and (done := progress.batch - len(in_flight)):
            bar.set_postfix({name: f"{total / done:.3f}" for name, total in progress.sums.items()})
        stopping = distributed.any_of(saver.stop.raised, training.device)
        if stopping or saver.is_due():
            drain(0)
            saver.save(training)
        if stopping:
            raise Interrupted
    drain(0)


def count_losses(training: Training, step: int, values: dict[str, float], image_ids: list[str]) -> None:
    """Add a step's losses to those of its epoch. Raises FloatingPointError where they are not finite."""
    progress = training.progress
    if training.is_broken(values):
        bad = ", ".join(f"{name} {value:g}" for name, value in values.items() if not math.isfinite(value))
        place = f"epoch {progress.epoch + 1}, step {step}, images {', '.join(image_ids)}"
        raise FloatingPointError(f"loss is not finite ({bad}) in {place}")
    for name, value in values.items():
        if math.isfinite(value):  # the norm is not, where float16 overflowed and a step was left out
            progress.sums[name] = progress.sums.get(name, 0.0) + value


def roll_back(training: Training, error: FloatingPointError, saver: Saver, rollbacks: int, log: Log) -> None:
    """Go back to the last state at half the rate. Raises UserError where it may not, or not again."""
    saved, may = saver.load(), training.recipe.on_nan == "rollback"
    if not may or saved is None or rollbacks > ROLLBACKS:
        raise UserError(f"{error}; lower the rate{'' if may else ', or set on_nan: rollback'}") from None
    # Of what failed: the saved state may be of before an earlier failure.
    lr_scale = training.progress.lr_scale / 2
    training.restore(saved)
    training.progress.lr_scale = lr_scale
    log.say(f"{error}; back to epoch {training.progress.epoch + 1} at {lr_scale:g} of the rate")


def close_epoch(
    training: Training, steps: int, spent: dict[str, float], validate: Callable[[], float] | None
) -> dict[str, float]:
    """The epoch's row of the history: mean losses, seconds and, where it is to be measured, the metric."""
    progress = training.progress
    row = {"epoch": progress.epoch + 1, "lr": training.optimizer.param_groups[0]["lr"]}
    row |= {name: total / steps for name, total in progress.sums.items()}
    row |= {name: round(value, 2) for name, value in spent.items()}
    if validate is not None and distributed.is_main_process():
        row["mAP"] = validate()
    progress.history.append(row)
    progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
    return row
