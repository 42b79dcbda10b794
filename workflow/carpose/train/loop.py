"""A training from its files to its checkpoint: epochs, validation, states from which a killed one goes on."""

import hashlib
import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow
import torch
from tqdm import tqdm

from carpose.config.sections import Predict, Running
from carpose.config.train_config import TrainConfig
from carpose.core import cars, parquet
from carpose.core.cars import POSE
from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.data.loader import stream
from carpose.data.samples import Batch, Samples
from carpose.heads import loss
from carpose.kaggle.read import check_same_photos, read_test_images
from carpose.metric import evaluate
from carpose.network.checkpoint import build_from, save_checkpoint, weights_digest
from carpose.predict.cars import predict_cars
from carpose.predict.networks import prepare_for_inference

from . import distributed
from .optimizer import rate_schedule
from .state import Saver, remove
from .step import Training

ROLLBACKS = 3  # times a training may go back after a loss that is not finite
TOO_MUCH = 10  # times all other losses together
VALIDATION = Predict(threshold=0.05, batch_size=8, flip=False, tta_rotations_deg=[], mask_filter=False)


@dataclass(frozen=True)
class TrainFiles:
    """Every file that a training reads or writes."""

    cache: Path  # folder
    images: Path
    labels: Path
    folds: Path
    output: Path  # model.pt
    history: Path
    state: Path
    pseudo: Path | None = None  # pseudo labels of the round before
    start_weights: Path | None = None  # model.pt that it begins with
    events: Path | None = None  # folder for TensorBoard


class Interrupted(Exception):
    """SIGTERM or SIGUSR1 came: the state is saved."""


class Log:
    """What a training says; the main process alone says anything."""

    def __init__(self, name: str, events: Path | None = None):
        """name: in front of every line; events: folder for TensorBoard, or None."""
        self.name, self.events = name, events

    def say(self, message: str) -> None:
        if distributed.is_main_process():
            print(f"[{self.name}] {message}", flush=True)

    def epoch(self, row: dict[str, float], epochs: int, weights: dict[str, float]) -> None:
        """An epoch's row of the history, and a warning where one weighted loss starves the others."""
        text = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
        self.say(f"epoch {row['epoch']}/{epochs}  {text}")
        terms = {name: abs(row[name] * weight) for name, weight in weights.items()}
        name = max(terms, key=terms.get)
        if terms[name] > TOO_MUCH * (sum(terms.values()) - terms[name]):
            self.say(f"warning: the {name} loss outweighs the others tenfold; lower loss_weights.{name}")
        if self.events and distributed.is_main_process():
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            with SummaryWriter(str(self.events)) as writer:
                for name, value in row.items():
                    writer.add_scalar(name, value, row["epoch"])


@dataclass(frozen=True)
class Tables:
    """What a training of one fold learns from, and is measured on.

    cars: labels of all training photos, then pseudo labels of the test photos, with weight and depth_sigma;
    train_ids, valid_ids: training photos to learn from and to measure on; pseudo_ids: test photos to learn
    from.
    """

    cars: pd.DataFrame
    train_ids: list[str]
    valid_ids: list[str]
    pseudo_ids: list[str]

    def samples(self, cache: Path, train_config: TrainConfig) -> Samples:
        """cache: folder of the picture cache."""
        return Samples(cache, self.train_ids + self.pseudo_ids, self.cars, train_config, len(self.pseudo_ids))

    def truth(self) -> pd.DataFrame:
        """The true cars of the photos to measure on."""
        return self.cars[self.cars["ImageId"].isin(self.valid_ids)]


def read_tables(files: TrainFiles, fold: int) -> Tables:
    """Raises UserError where a file is not right, the fold leaves nothing to learn from, or pseudo labels are
    of other folds or photos."""
    columns = ["ImageId", *POSE, "weight", "depth_sigma"]
    labels = cars.read(files.labels).assign(weight=1.0, depth_sigma=0.0)[columns]
    folds = parquet.read_folds(files.folds).sort_values("ImageId")
    train_ids = folds.ImageId[folds.fold != fold].tolist()
    valid_ids = folds.ImageId[folds.fold == fold].tolist()
    if not train_ids or not valid_ids:
        raise UserError(f"{files.folds}: fold {fold} leaves nothing to train or to validate on")
    check_same_photos(files.labels, labels, folds["ImageId"])
    if files.pseudo is None:
        return Tables(labels, train_ids, valid_ids, [])
    pseudo = cars.read(files.pseudo, columns=dict.fromkeys(["fold", *columns[-2:]], parquet.NUMBER))
    made = parquet.about(files.pseudo).get("folds", [fold])
    if fold not in made:
        text = f"has labels for the folds {', '.join(map(str, made))}, none for fold {fold}"
        raise UserError(f"{files.pseudo}: {text}; make them again with these folds")
    pseudo = pseudo.loc[pseudo.fold == fold, columns]
    pseudo_ids = sorted(read_test_images(files.images, excluded=False))
    unlisted = pseudo.ImageId[~pseudo.ImageId.isin(pseudo_ids)]
    if len(unlisted):
        text = f"image {unlisted.iloc[0]} is no test photo of {files.images}, or is left out"
        raise UserError(f"{files.pseudo}: {text}; make the pseudo labels again")
    return Tables(pd.concat([labels, pseudo], ignore_index=True), train_ids, valid_ids, pseudo_ids)


def work_digest(
    files: TrainFiles, tables: Tables, fold: int, train_config: TrainConfig, start: torch.nn.Module | None
) -> str:
    """What a state belongs to: the recipe, the fold, the network to start with, and all that is learnt from,
    whatever code wrote it."""
    hasher = hashlib.sha256(f"{train_config.digest()} {fold}".encode())
    hasher.update(parquet.content_digest(tables.cars).encode())
    for image_ids in (tables.train_ids, tables.valid_ids, tables.pseudo_ids):
        hasher.update(hashlib.sha256("\n".join(image_ids).encode()).digest())
    if start is not None:
        hasher.update(weights_digest(start).encode())
    pretrained = None if train_config.pretrained in ("none", "hub") else Path(train_config.pretrained)
    for path in (pretrained, files.cache / "cache.json"):
        if path is not None:
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]


def run(
    files: TrainFiles,
    fold: int,
    train_config: TrainConfig,
    running: Running,
    device: torch.device,
    name: str = "train",
) -> None:
    """Train to the end, or raise Interrupted (state saved) or UserError (a loss that is not finite).

    fold: the one to validate on; name: in the log.
    """
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own keeps several times what tables take
    log = Log(name, files.events if running.tensorboard else None)
    tables = read_tables(files, fold)
    samples, valid_ids, truth = tables.samples(files.cache, train_config), tables.valid_ids, tables.truth()
    steps = max(samples.labelled // train_config.batch_size, 1)  # of an epoch
    distributed.check(min(samples.labelled, train_config.batch_size), distributed.size())
    start = None if files.start_weights is None else build_from(files.start_weights, fold, train_config)
    digest = work_digest(files, tables, fold, train_config, start)
    saver = Saver(files.state, digest, running.save_minutes, log.say)
    training = Training(train_config, start, device, running.graphs)
    log.say(f"computing on {device} in {training.dtype or torch.float32}".replace("torch.", ""))
    saved = saver.load()
    if saved:
        training.restore(saved)
        log.say(f"going on at epoch {training.progress.epoch + 1}, batch {training.progress.batch}")

    def validate() -> float:
        model = prepare_for_inference(training.ema.module, train_config, device, graphs=running.graphs)
        predictions, _ = predict_cars(
            [model], train_config, files.cache, valid_ids, device, VALIDATION, workers=running.workers
        )
        return evaluate(truth, predictions, image_ids=valid_ids)["mAP"]

    train(training, samples, steps, running, saver, log, validate)
    if distributed.is_main_process():
        with atomic(files.history) as temporary:
            pd.DataFrame(training.progress.history).to_csv(temporary, index=False)
        about = {"data": digest, "fold": fold, "round": "later" if files.pseudo else "first"}
        save_checkpoint(files.output, training.ema.module.state_dict(), train_config, about)
        remove(files.state)


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
    train_config, device = training.train_config, training.device
    epochs = train_config.epochs
    rate_of = rate_schedule(train_config.schedule, epochs * steps, training.peak_rate, train_config.warmup)
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
        epoch = progress.epoch + 1
        if epoch == epochs:
            batches = None  # the workers go before those of the last validation come
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
        due = epoch == epochs or (running.validate_every > 0 and epoch % running.validate_every == 0)
        if due:
            saver.save(training)  # a validation can take longer than Slurm waits after SIGTERM
        row = close_epoch(training, steps, spent, validate if due else None)
        saver.save(training)
        log.epoch(row, epochs, loss.weights(train_config))


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

    def drain(limit: int) -> None:
        """Wait until no more than `limit` steps are in flight; count the losses of the others."""
        while len(in_flight) > limit:
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
        stopping = distributed.any_of(saver.stopping, training.device)
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
    saved, may = saver.load(), training.train_config.on_nan == "rollback"
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
