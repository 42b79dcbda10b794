"""Train one model on one fold, in the first round or a later one.

In: the image cache, labels, folds and, in a later round, pseudo labels and the previous round's checkpoint.
Out: `model.pt` (the last moving average of the network weights) and `history.csv` (one row per epoch).
If it was killed, the same command resumes from the state file and ends with the same weights.
With --gpus N it replaces itself by torchrun, and N processes share every batch; for several nodes, start it
with torchrun.
"""

import argparse
import contextlib
import math
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import torch

from carpose.config.options import add_options, from_options
from carpose.config.sections import Running
from carpose.config.train_config import TrainConfig
from carpose.core.files import check_outputs, run_main
from carpose.core.options import int_at_least, program
from carpose.network.device import acquire_device, worker_count

from . import distributed, state
from .loop import Interrupted, TrainFiles, run


def main() -> int:
    args = parse()
    train_config, running = from_options(args, TrainConfig), from_options(args, Running)
    running = replace(running, workers=worker_count(running.workers))
    # From the start of this program, or of the run that it belongs to.
    minutes = running.stop_after_minutes
    stop_at = args.stop_at or (time.time() + 60 * minutes if minutes else math.inf)
    files = TrainFiles(**{item.name: getattr(args, item.name) for item in fields(TrainFiles)})
    if train_config.start == "scratch":
        files = replace(files, start_weights=None)
    check_outputs(files.output, files.history, files.state)
    torch.set_num_threads(train_config.threads)
    distributed.check_batch_size(train_config.batch_size, max(args.gpus, distributed.world_size()))
    distributed.launch(args.gpus, "carpose.train")
    main_process = distributed.is_main_process()
    lock = state.state_lock(files.state) if main_process else contextlib.nullcontext()
    with lock, acquire_device(args.gpus) as device, distributed.process_group(device):
        try:
            run(files, args.fold, train_config, running, device, args.name, stop_at)
        except Interrupted as interrupted:
            if main_process:
                reason = "at the time that was asked for" if time.time() >= stop_at else "on request"
                print(f"[{args.name}] stopped {reason}; {interrupted}")
            return 128 + signal.SIGTERM
    return 0


def parse() -> argparse.Namespace:
    parser = program("carpose.train", __doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--cache", type=Path, required=True, help="folder of the image cache")
    files.add_argument("--images", type=Path, required=True, help="images.parquet (carpose.kaggle check)")
    files.add_argument("--labels", type=Path, required=True, help="labels.parquet")
    files.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    files.add_argument("--pseudo", type=Path, help="pseudo.parquet of the round before")
    files.add_argument(
        "--start-weights", type=Path, help="model.pt of the round before, read with --start warm"
    )
    files.add_argument("--output", type=Path, required=True, help="model.pt")
    files.add_argument("--history", type=Path, required=True, help="history.csv")
    files.add_argument(
        "--state", type=Path, required=True, help="state file to resume from; removed at the end"
    )
    files.add_argument(
        "--events", type=Path, help="folder for TensorBoard events, written with --tensorboard"
    )
    parser.add_argument("--fold", type=int_at_least(0), required=True, help="the fold to validate on")
    parser.add_argument("--name", default="train", help="prefix of the log lines")
    parser.add_argument(
        "--gpus", type=int_at_least(0), default=1, help="number of GPUs that share the training; 0: the CPU"
    )
    parser.add_argument(
        "--stop-at",
        type=float,
        help="Unix time at which to save the state and stop; replaces --stop-after-minutes",
    )
    add_options(parser, Running)
    add_options(parser, TrainConfig)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
