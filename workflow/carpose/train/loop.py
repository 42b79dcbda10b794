"""A training from its input files to its checkpoint: epochs, validation, saved states, resuming."""

import hashlib
import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import torch
from tqdm import tqdm

from carpose.config.sections import Running
from carpose.config.train_config import TrainConfig
from carpose.core import cars, parquet
from carpose.core.cars import POSE
from carpose.core.durations import estimate
from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.data.loader import stream
from carpose.data.samples import Batch, Samples
from carpose.data.training_camera import TrainingCamera
from carpose.heads import loss
from carpose.kaggle.read import check_same_photos, read_test_images
from carpose.network.checkpoint import build_from, save_checkpoint, weights_digest

from . import distributed
from .optimizer import lr_schedule
from .state import Saver, remove
from .step import Training
from .validation import validate

MAX_ROLLBACKS = 3  # after losses that are not finite
DOMINANCE = 10  # warn where one weighted loss is this many times the sum of the others


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
    start_weights: Path | None = None  # model.pt of the round before
    events: Path | None = None  # folder for TensorBoard


class Interrupted(Exception):
    """The training was stopped by a signal or at its time. The message says whether its state was saved."""


class Log:
    """The log lines of a training, printed by the main process alone, and its TensorBoard events."""

    def __init__(self, name: str, events: Path | None = None):
        """name: prefix of every line; events: folder for TensorBoard, or None."""
        self.name, self.events = name, events

    def info(self, message: str) -> None:
        if distributed.is_main_process():
            print(f"[{self.name}] {message}", flush=True)

    def epoch(self, history: list[dict[str, float]], epochs: int, loss_weights: dict[str, float]) -> None:
        """Print the last row of the history with the time left, and a warning if one weighted loss dominates
        all others."""
        row = history[-1]
        text = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
        seconds = [row["seconds"] for row in history[-5:]]
        left = estimate(sum(seconds) / len(seconds) * (epochs - len(history)))
        self.info(f"epoch {row['epoch']}/{epochs}  {f'{left} left  ' if len(history) < epochs else ''}{text}")
        terms = {name: abs(row[name] * weight) for name, weight in loss_weights.items()}
        name = max(terms, key=terms.__getitem__)
        if terms[name] > DOMINANCE * (sum(terms.values()) - terms[name]):
            self.info(
                f"warning: the weighted {name} loss is more than {DOMINANCE} times the sum of all others; "
                f"lower loss_weights.{name}"
            )
        if self.events and distributed.is_main_process():
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            with SummaryWriter(str(self.events)) as writer:
                for name, value in row.items():
                    writer.add_scalar(name, value, row["epoch"])


@dataclass(frozen=True)
class Tables:
    """The data of the training of one fold.

    cars: labels of all training photos, then pseudo labels of the test photos, with sample weight and
    depth_sigma; train_ids, valid_ids: training photos to train and to validate on; pseudo_ids: test photos
    with pseudo labels.
    """

    cars: pd.DataFrame
    train_ids: list[str]
    valid_ids: list[str]
    pseudo_ids: list[str]

    def samples(self, cache: Path, train_config: TrainConfig) -> Samples:
        """Samples of all photos to train on; cache: folder of the image cache."""
        return Samples(cache, self.train_ids + self.pseudo_ids, self.cars, train_config, len(self.pseudo_ids))

    def truth(self) -> pd.DataFrame:
        """The labelled cars of the validation photos."""
        return self.cars[self.cars["ImageId"].isin(self.valid_ids)]


def read_tables(files: TrainFiles, fold: int) -> Tables:
    """Read the data of one fold. Raises UserError if a file is invalid, if no photo is left to train or to
    validate on, or if the pseudo labels are of other folds or photos."""
    columns = ["ImageId", *POSE, "weight", "depth_sigma"]
    labels = cars.read(files.labels).assign(weight=1.0, depth_sigma=0.0)[columns]
    folds = parquet.read_folds(files.folds).sort_values("ImageId")
    train_ids = folds.ImageId[folds.fold != fold].tolist()
    valid_ids = folds.ImageId[folds.fold == fold].tolist()
    if not train_ids or not valid_ids:
        raise UserError(f"{files.folds}: fold {fold} leaves no photos to train or to validate on")
    check_same_photos(files.labels, labels, folds["ImageId"])
    if files.pseudo is None:
        return Tables(labels, train_ids, valid_ids, [])
    pseudo = cars.read(files.pseudo, columns=dict.fromkeys(["fold", *columns[-2:]], parquet.NUMBER))
    pseudo_folds = parquet.about(files.pseudo).get("folds", [fold])
    if fold not in pseudo_folds:
        text = f"has labels for the folds {', '.join(map(str, pseudo_folds))}, none for fold {fold}"
        raise UserError(f"{files.pseudo}: {text}; make the pseudo labels again with these folds")
    pseudo = pseudo.loc[pseudo.fold == fold, columns]
    pseudo_ids = sorted(read_test_images(files.images, excluded=False))
    unlisted = pseudo.ImageId[~pseudo.ImageId.isin(pseudo_ids)]
    if len(unlisted):
        text = f"image {unlisted.iloc[0]} is not among the test photos of {files.images}, or is excluded"
        raise UserError(f"{files.pseudo}: {text}; make the pseudo labels again")
    return Tables(pd.concat([labels, pseudo], ignore_index=True), train_ids, valid_ids, pseudo_ids)


def training_digest(
    files: TrainFiles,
    tables: Tables,
    fold: int,
    train_config: TrainConfig,
    initial_network: torch.nn.Module | None,
) -> str:
    """A hash of all inputs of a training: configuration, fold, initial network, tables and photos. A saved
    state is resumed only by a training with the same hash. It does not depend on the code's version."""
    hasher = hashlib.sha256(f"{train_config.digest()} {fold}".encode())
    hasher.update(parquet.content_digest(tables.cars).encode())
    for image_ids in (tables.train_ids, tables.valid_ids, tables.pseudo_ids):
        hasher.update(hashlib.sha256("\n".join(image_ids).encode()).digest())
    if initial_network is not None:
        hasher.update(weights_digest(initial_network).encode())
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
    stop_at: float = math.inf,
) -> None:
    """Train to the end, write the checkpoint and the history, and remove the state.

    fold: the fold to validate on; name: prefix of the log lines; stop_at: the Unix time at which to save the
    state and stop. Raises Interrupted then or after a signal, UserError for invalid files or a loss that is
    not finite.
    """
    # pyarrow's own pool keeps several times the memory that the tables need.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    log = Log(name, files.events if running.tensorboard else None)
    tables = read_tables(files, fold)
    samples, valid_ids, truth = tables.samples(files.cache, train_config), tables.valid_ids, tables.truth()
    steps = max(samples.labelled_count // train_config.batch_size, 1)  # per epoch
    distributed.check_batch_size(
        min(samples.labelled_count, train_config.batch_size), distributed.world_size()
    )
    # A later round with `start: warm` starts with start_weights, the whole network of the round before. Other
    # trainings start with a new network; `pretrained` names published weights for its backbone, if any.
    initial_network = None
    if files.start_weights is not None:
        initial_network = build_from(files.start_weights, fold, train_config)
    digest = training_digest(files, tables, fold, train_config, initial_network)
    saver = Saver(files.state, digest, running.save_minutes, log.info, stop_at)
    training = Training(train_config, initial_network, device, running.cuda_graphs)
    log.info(f"computing on {device} in {training.dtype or torch.float32}".replace("torch.", ""))
    pseudo = f" and {len(tables.pseudo_ids)} pseudo-labelled test photos" if tables.pseudo_ids else ""
    photos = f"{len(tables.train_ids)} photos{pseudo}, {len(valid_ids)} to validate on"
    parameters = sum(parameter.numel() for parameter in training.ema.module.parameters())
    log.info(
        f"{photos}; {parameters / 1e6:.2f} million weights; {train_config.epochs} epochs of {steps} steps"
    )
    saved = saver.load()
    if saved and not training.accepts(saved):
        text = "is of another version of the code and is not used; training from the beginning"
        log.info(f"warning: {files.state}: {text}")
    elif saved:
        training.restore(saved)
        log.info(f"going on at epoch {training.progress.epoch + 1}, batch {training.progress.batch}")

    def validate_now() -> dict[str, float]:
        network = training.ema.module
        return validate(network, train_config, files.cache, valid_ids, truth, device, running)

    train(training, samples, steps, running, saver, log, validate_now)
    if device.type == "cuda":
        log.info(f"GPU memory {torch.cuda.max_memory_reserved(device) / 2**30:.2f} GiB at most")
    if distributed.is_main_process():
        with atomic(files.history) as temporary:
            pd.DataFrame(training.progress.history).to_csv(temporary, index=False)
        # data: the hash of all inputs: data, training configuration, fold and initial network.
        about = {"data": digest, "fold": fold, "round": "later" if files.pseudo else "first"}
        about["camera"] = TrainingCamera.of_cache(samples.cache).to_json()  # for photos of other cameras
        save_checkpoint(files.output, training.ema.module.state_dict(), train_config, about)
        remove(files.state)
        score = training.progress.history[-1].get("mAP", float("nan"))
        log.info(f"wrote {files.output}; mAP {score:.4f} on the validation photos")


def train(
    training: Training,
    samples: Samples,
    steps: int,
    running: Running,
    saver: Saver,
    log: Log,
    validate: Callable[[], dict[str, float]],
) -> None:
    """Train all remaining epochs; steps: per epoch; validate: losses and mAP on the validation photos."""
    train_config, device = training.train_config, training.device
    epochs = train_config.epochs
    lr_at = lr_schedule(train_config.schedule, epochs * steps, training.peak_lr, train_config.warmup)
    fixed_shape = training.cuda_graph is not None
    rollbacks, batches = 0, None
    while (progress := training.progress).epoch < epochs:
        if batches is None:
            remaining = range(progress.epoch, epochs)
            options: dict[str, Any] = {
                "workers": running.workers,
                "shard": distributed.shard,
                "fixed_shape": fixed_shape,
            }
            batches = stream(samples, remaining, progress.batch, device, **options)
        start_time, cpu_start_time = time.monotonic(), time.process_time()
        try:
            train_epoch(training, batches, steps, lr_at, saver, log.name)
        except FloatingPointError as error:
            rollbacks += 1
            batches = None  # stops the workers; new batches start at the restored position
            roll_back(training, error, saver, rollbacks, log)
            continue
        epoch = progress.epoch + 1
        if epoch == epochs:
            batches = None  # stops the workers before the last validation starts its own
        durations = {
            "seconds": time.monotonic() - start_time,
            "cpu_seconds": time.process_time() - cpu_start_time,
        }
        validate_now = epoch == epochs or (running.validate_every > 0 and epoch % running.validate_every == 0)
        if validate_now:
            saver.save(training)  # a validation can take longer than Slurm waits after SIGTERM
        close_epoch(training, steps, durations, validate if validate_now else None)
        saver.save(training)
        log.epoch(progress.history, epochs, loss.loss_weights(train_config))


def train_epoch(
    training: Training,
    batches: Iterator[Batch],
    steps: int,
    lr_at: Callable[[int], float],
    saver: Saver,
    label: str = "",
) -> None:
    """Train the remaining batches of the current epoch; steps: per epoch; lr_at: step of the training →
    learning rate, before `Progress.lr_scale`; label: of the progress bar.

    Raises FloatingPointError naming epoch, step and ImageIds; Interrupted if it was asked to stop.
    """
    progress = training.progress
    left = steps - progress.batch
    silent = not (sys.stderr.isatty() and distributed.is_main_process())
    remaining = itertools.islice(batches, left)
    bar = tqdm(remaining, total=left, desc=f"{label} {progress.epoch + 1}", disable=silent, leave=False)
    in_flight: deque[tuple] = deque()

    def drain(limit: int) -> None:
        """Wait until at most `limit` steps are in flight; add the losses of the finished ones."""
        while len(in_flight) > limit:
            step, result, image_ids = in_flight.popleft()
            add_losses(training, step, result(), image_ids)

    for images, targets, image_ids in bar:
        result = training.step(images, targets, lr_at(progress.step) * progress.lr_scale)
        in_flight.append((progress.step, result, image_ids))
        drain(training.max_in_flight)
        progress.step += 1
        progress.batch += 1
        if not silent and (done := progress.batch - len(in_flight)):
            bar.set_postfix({name: f"{total / done:.3f}" for name, total in progress.sums.items()})
        stopping = distributed.any_process(saver.stopping, training.device)
        if stopping or saver.is_due():
            drain(0)
            saver.save(training)
        if stopping:
            raise Interrupted(
                "the state is saved, the same command resumes"
                if saver.saved
                else "the state could not be saved, the same command resumes from the last saved one"
            )
    drain(0)


def add_losses(training: Training, step: int, values: dict[str, float], image_ids: list[str]) -> None:
    """Add a step's losses to the sums of the epoch. Raises FloatingPointError if one is not finite."""
    progress = training.progress
    if training.is_broken(values):
        bad = ", ".join(f"{name} {value:g}" for name, value in values.items() if not math.isfinite(value))
        where = f"epoch {progress.epoch + 1}, step {step}, images {', '.join(image_ids)}"
        raise FloatingPointError(f"loss is not finite ({bad}) in {where}")
    for name, value in values.items():
        if math.isfinite(value):  # with fp16 the norm may be infinite; that step was skipped
            progress.sums[name] = progress.sums.get(name, 0.0) + value


def roll_back(training: Training, error: FloatingPointError, saver: Saver, rollbacks: int, log: Log) -> None:
    """Restore the last saved state and halve the learning rate. Raises UserError if `on_nan` is stop, if
    there is no state, or after MAX_ROLLBACKS."""
    saved, may_roll_back = saver.load(), training.train_config.on_nan == "rollback"
    if not may_roll_back or saved is None or rollbacks > MAX_ROLLBACKS:
        raise UserError(f"{error}; lower lr{'' if may_roll_back else ', or set on_nan: rollback'}") from None
    # Half of the current scale: the saved lr_scale may predate the last rollback.
    lr_scale = training.progress.lr_scale / 2
    training.restore(saved)
    training.progress.lr_scale = lr_scale
    log.info(
        f"{error}; back to epoch {training.progress.epoch + 1} with {lr_scale:g} times the learning rate"
    )


def close_epoch(
    training: Training,
    steps: int,
    durations: dict[str, float],
    validate: Callable[[], dict[str, float]] | None,
) -> None:
    """Add the epoch's row to the history: mean losses, seconds and, with `validate`, validation losses and
    mAP; start the next."""
    progress = training.progress
    row = {"epoch": progress.epoch + 1, "lr": training.optimizer.param_groups[0]["lr"]}
    row |= {name: total / steps for name, total in progress.sums.items()}
    row |= {name: round(value, 2) for name, value in durations.items()}
    if validate is not None and distributed.is_main_process():
        row |= validate()
    progress.history.append(row)
    progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
