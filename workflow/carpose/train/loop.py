"""Train one model on one fold; the same command for the first training and every retraining.

In: the picture cache, labels, folds and, for a later round, pseudo labels and the round before's weights.
Out: `model.pt` (the last moving average of the weights) and `history.csv` (one row per epoch).
Killed at any moment, the same command goes on from its state file and ends with the same weights.
With --gpus N it becomes torchrun, and N processes share every batch; on several nodes torchrun starts it.
"""

import argparse
import contextlib
import hashlib
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

from . import UserError, cars, data, distributed, ground, losses, parquet, state
from .cars import POSE
from .checkpoint import save_checkpoint
from .config import check_recipe
from .device import NO_GRAPHS, lease, worker_count
from .files import atomic, check_outputs, run_main
from .metric import evaluate
from .optim import rate_schedule
from .options import real, whole
from .predict import placed, predict_cars
from .recipe import Recipe, add_options, from_options
from .training import Training

LATEST_RESTARTS = 3  # times a training may go back after a loss that is not finite


class Interrupted(Exception):
    """SIGTERM came: the state is saved."""


def run(args: argparse.Namespace, recipe: Recipe, device: torch.device) -> None:
    """Train to the end, or raise Interrupted (state saved) or UserError (a loss that is not finite)."""
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own keeps several times what tables take
    labels = cars.read(args.labels)
    folds = parquet.read_folds(args.folds).sort_values("ImageId")
    left_out = set(recipe.leave_out.split(",")) - {""}
    if unknown := left_out - set(folds.ImageId):
        raise UserError(f"leave_out: {min(unknown)} is not among the training photos of {args.folds}")
    train_ids = folds.ImageId[(folds.fold != args.fold) & ~folds.ImageId.isin(left_out)].tolist()
    valid_ids = folds.ImageId[folds.fold == args.fold].tolist()
    if not train_ids or not valid_ids:
        raise UserError(f"{args.folds}: fold {args.fold} leaves nothing to train or to validate on")
    later = args.pseudo is not None
    table, pseudo_ids = labels.assign(weight=1.0, depth_sigma=0.0), []
    if later:
        images = parquet.read_images(args.images)
        known = dict.fromkeys(["fold", "weight", "depth_sigma"], parquet.NUMBER)
        pseudo = cars.read(args.pseudo, columns=known)
        pseudo = pseudo[pseudo.fold == args.fold]
        pseudo_ids = sorted(images.ImageId[(images.split == "test") & (images.excluded == "")])
        columns = ["ImageId", *POSE, "weight", "depth_sigma"]
        table = pd.concat([table[columns], pseudo[columns]], ignore_index=True)
    epochs = recipe.retrain_epochs if later else recipe.epochs
    samples = data.Samples(args.cache, train_ids + pseudo_ids, table, recipe, len(pseudo_ids), epochs)
    # The ground under the cars that it learns from: what a prediction on the ground needs.
    prior = ground.fit_prior(labels[labels.ImageId.isin(train_ids)])
    del labels, table  # as large as all else that grows with the photos
    per_epoch = max(len(train_ids) // recipe.batch_size, 1)
    distributed.check(min(len(train_ids), recipe.batch_size), distributed.size())
    start = args.start if later and recipe.retrain_start == "warm" else None
    digest = work_digest(args, recipe, start)

    training = Training(recipe, later, start, device)
    if args.no_graphs:
        training.recorded = None
    say(args, f"computing on {device} in {training.dtype or torch.float32}".replace("torch.", ""))
    rate_of = rate_schedule(recipe.schedule, epochs * per_epoch, training.peak_rate, recipe.warmup)
    saved = load_state(args.state, digest)
    if saved:
        training.restore(saved)
        say(args, f"going on at epoch {training.progress.epoch + 1}, batch {training.progress.batch}")
    stop, coming = SignalFlag(), None
    retries = 0
    while (progress := training.progress).epoch < epochs:
        if coming is None:
            coming = data.stream(samples, progress.epoch, progress.batch, args.workers, device)
        began, cpu_began = time.monotonic(), time.process_time()
        try:
            run_epoch(args, training, coming, per_epoch, rate_of, stop, digest)
        except FloatingPointError as error:
            retries += 1
            saved = load_state(args.state, digest)
            if recipe.nan == "stop" or saved is None or retries > LATEST_RESTARTS:
                remedy = "lower the rate" + (", or set nan: back" if recipe.nan == "stop" else "")
                raise UserError(f"{error}; {remedy}") from None
            rate = progress.rate / 2  # of what failed: the saved state may be of before an earlier failure
            training.restore(saved)
            training.progress.rate = rate
            coming = None  # from where it goes on; the workers of before go first
            say(args, f"{error}; back to epoch {training.progress.epoch + 1} at {rate:g} of the rate")
            continue
        if progress.epoch + 1 == epochs:
            coming = None  # the workers go before those of the last validation come
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
        row = finish_epoch(args, training, valid_ids, per_epoch, epochs, spent, digest)
        save_state(args, digest, training)
        report(args, row, epochs, training.progress.weights)
    if not distributed.first():
        return
    provenance = {"data": digest, "fold": args.fold, "round": "later" if later else "first", "ground": prior}
    with atomic(args.history) as temporary:
        pd.DataFrame(training.progress.history).to_csv(temporary, index=False)
    save_checkpoint(args.output, training.ema.module.state_dict(), recipe, provenance)
    state.remove(args.state)


def run_epoch(
    args: argparse.Namespace,
    training: Training,
    coming: Iterator[data.Batch],
    per_epoch: int,
    rate_of: Callable[[int], float],
    stop: "SignalFlag",
    digest: str,
) -> None:
    """The rest of the current epoch. Raises FloatingPointError naming epoch, step and ImageIds."""
    progress = training.progress
    left = per_epoch - progress.batch
    saved_at = time.monotonic()
    silent = not (sys.stderr.isatty() and distributed.first())
    rest = itertools.islice(coming, left)
    bar = tqdm(rest, total=left, desc=f"{args.name} {progress.epoch + 1}", disable=silent, leave=False)
    under_way: deque[tuple] = deque()

    def settle(most: int) -> None:
        """Wait until no more than `most` steps are under way; count the losses of the others."""
        while len(under_way) > most:
            step, result, image_ids = under_way.popleft()
            values = result()
            if training.is_broken(values):
                bad = ", ".join(f"{name} {v:g}" for name, v in values.items() if not math.isfinite(v))
                photos, place = ", ".join(image_ids), f"epoch {progress.epoch + 1}, step {step}"
                raise FloatingPointError(f"loss is not finite ({bad}) in {place}, images {photos}")
            for name, value in values.items():
                if math.isfinite(value):  # the norm is not, where float16 overflowed and a step was left out
                    progress.sums[name] = progress.sums.get(name, 0.0) + value

    for pictures, targets, image_ids in bar:
        result = training.step(pictures, targets, rate_of(progress.step) * progress.rate)
        under_way.append((progress.step, result, image_ids))
        settle(training.ahead)
        progress.step += 1
        progress.batch += 1
        if not silent and (done := progress.batch - len(under_way)):
            bar.set_postfix({name: f"{total / done:.3f}" for name, total in progress.sums.items()})
        stopping = distributed.any_of(stop.raised, training.device)
        if stopping or time.monotonic() - saved_at > 60 * args.save_minutes:
            settle(0)
            save_state(args, digest, training)
            saved_at = time.monotonic()
        if stopping:
            raise Interrupted
    settle(0)


def finish_epoch(
    args: argparse.Namespace,
    training: Training,
    valid_ids: list[str],
    per_epoch: int,
    epochs: int,
    spent: dict[str, float],
    digest: str,
) -> dict[str, float]:
    """Close the epoch: mean losses and, when it is due, the metric on the fold's own photos.

    The state is saved before that metric.
    """
    progress, recipe = training.progress, training.recipe
    row = {"epoch": progress.epoch + 1, "lr": training.optimizer.param_groups[0]["lr"]}
    row |= {name: total / per_epoch for name, total in progress.sums.items()}
    if recipe.loss_balance == "learned":
        row |= {f"{name}_weight": round(weight, 4) for name, weight in progress.weights.items()}
    row |= {name: round(value, 2) for name, value in spent.items()}
    due = progress.epoch + 1 == epochs
    due |= bool(args.validate_every) and (progress.epoch + 1) % args.validate_every == 0
    if due:
        save_state(args, digest, training)  # a validation can take longer than Slurm waits after SIGTERM
    if due and distributed.first():
        model = placed(training.ema.module, recipe, training.device, "torch", not args.no_graphs)
        found, _ = predict_cars(
            [[(model, recipe)]], args.cache, valid_ids, training.device, workers=args.workers
        )
        row["mAP"] = evaluate(cars.read(args.labels), found, image_ids=valid_ids)["mAP"]
    progress.history.append(row)
    progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
    return row


def report(args: argparse.Namespace, row: dict[str, float], epochs: int, weights: dict[str, float]) -> None:
    """One line of log, TensorBoard's events, and a warning where one weighted loss starves the others."""
    text = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
    say(args, f"epoch {row['epoch']}/{epochs}  {text}")
    terms = {name: abs(row[name] * weight) for name, weight in weights.items()}
    name = max(terms, key=terms.get)
    if terms[name] > 10 * (sum(terms.values()) - terms[name]):
        key = f"{losses.WEIGHED_AS.get(name, name)}_weight"
        say(args, f"warning: the {name} loss outweighs the others tenfold; lower {key}")
    if args.tensorboard and distributed.first():
        write_events(args.tensorboard, row)


def write_events(folder: Path, row: dict) -> None:
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    with SummaryWriter(str(folder)) as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])


class SignalFlag:
    """Remembers SIGTERM or SIGUSR1 (Slurm's warning before the end), so that a step is never cut in two."""

    def __init__(self):
        self.raised = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._raise)

    def _raise(self, number, frame):
        self.raised = True


def work_digest(args: argparse.Namespace, recipe: Recipe, start: Path | None) -> str:
    """What a state belongs to: the recipe, the fold, and the content of every file that is learnt from."""
    hasher = hashlib.sha256(f"{recipe.digest()} {args.fold}".encode())
    for path in (args.labels, args.folds, args.pseudo, start, args.cache / "cache.json"):
        if path is not None:
            hasher.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return hasher.hexdigest()[:16]


def load_state(path: Path, digest: str) -> dict | None:
    return distributed.from_first(state.load(path, digest) if distributed.first() else None)


def save_state(args: argparse.Namespace, digest: str, training: Training) -> None:
    """A disk that is full for an hour costs the safety of that hour, not the training."""
    if not distributed.first():
        return
    try:
        state.save(args.state, digest, training.state())
    except OSError as error:
        say(args, f"warning: the state could not be saved, the one before is kept ({error})")


def say(args: argparse.Namespace, message: str) -> None:
    if distributed.first():
        print(f"[{args.name}] {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--cache", type=Path, required=True, help="folder of the picture cache")
    files.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    files.add_argument("--labels", type=Path, required=True, help="labels.parquet")
    files.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    files.add_argument(
        "--pseudo", type=Path, help="pseudo.parquet of the round before: makes this a retraining"
    )
    files.add_argument("--start", type=Path, help="model.pt of the round before, for retrain_start: warm")
    files.add_argument("--output", type=Path, required=True, help="model.pt")
    files.add_argument("--history", type=Path, required=True, help="history.csv")
    files.add_argument("--state", type=Path, required=True, help="file to resume from; gone when all is done")
    files.add_argument("--tensorboard", type=Path, help="folder for TensorBoard events")
    running = parser.add_argument_group("running")
    running.add_argument("--fold", type=whole(0), required=True, help="the fold to validate on")
    running.add_argument("--name", default="train", help="name in the log")
    running.add_argument("--validate-every", type=whole(0), default=1, help="epochs; 0: only the last")
    running.add_argument(
        "--save-minutes", type=real(0), default=10, help="minutes between states in an epoch"
    )
    running.add_argument("--workers", type=worker_count, default=0, help="processes that prepare samples")
    running.add_argument("--gpus", type=whole(0), default=1, help="how many share the training; 0: the CPU")
    running.add_argument("--no-graphs", action="store_true", help=NO_GRAPHS)
    add_options(parser)
    args = parser.parse_args()
    recipe = from_options(args)
    check_recipe(recipe)
    check_outputs(args.output, args.history, args.state)
    torch.set_num_threads(recipe.threads)
    distributed.check(recipe.batch_size, max(args.gpus, distributed.size()))
    distributed.launch(args.gpus, "carpose.train")
    owned = state.owned(args.state) if distributed.first() else contextlib.nullcontext()
    with owned, lease(args.gpus) as device, distributed.team(device):
        try:
            run(args, recipe, device)
        except Interrupted:
            say(args, "stopped on request; the state is saved, the same command goes on")
            return 128 + signal.SIGTERM
    return 0


if __name__ == "__main__":
    run_main(main)
