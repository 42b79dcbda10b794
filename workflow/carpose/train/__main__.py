"""Train one model on one fold; the same command for the first training and every retraining.

In: the picture cache, labels, folds and, for a later round, pseudo labels and the round before's weights.
Out: `model.pt` (the last moving average of the weights) and `history.csv` (one row per epoch).
Killed at any moment, the same command goes on from its state file and ends with the same weights.
With --gpus N it becomes torchrun, and N processes share every batch; on several nodes torchrun starts it.
"""

import argparse
import contextlib
import signal
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
    files = TrainFiles(**{item.name: getattr(args, item.name) for item in fields(TrainFiles)})
    if train_config.start == "scratch":
        files = replace(files, start_weights=None)
    check_outputs(files.output, files.history, files.state)
    torch.set_num_threads(train_config.threads)
    distributed.check(train_config.batch_size, max(args.gpus, distributed.size()))
    distributed.launch(args.gpus, "carpose.train")
    main_process = distributed.is_main_process()
    lock = state.state_lock(files.state) if main_process else contextlib.nullcontext()
    with lock, acquire_device(args.gpus) as device, distributed.process_group(device):
        try:
            run(files, args.fold, train_config, running, device, args.name)
        except Interrupted:
            if main_process:
                print(f"[{args.name}] stopped on request; the state is saved, the same command goes on")
            return 128 + signal.SIGTERM
    return 0


def parse() -> argparse.Namespace:
    parser = program("carpose.train", __doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--cache", type=Path, required=True, help="folder of the picture cache")
    files.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    files.add_argument("--labels", type=Path, required=True, help="labels.parquet")
    files.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    files.add_argument("--pseudo", type=Path, help="pseudo.parquet of the round before")
    files.add_argument("--start-weights", type=Path, help="model.pt of the round before, for --start warm")
    files.add_argument("--output", type=Path, required=True, help="model.pt")
    files.add_argument("--history", type=Path, required=True, help="history.csv")
    files.add_argument("--state", type=Path, required=True, help="file to resume from; gone when all is done")
    files.add_argument("--events", type=Path, help="folder for TensorBoard events, if --tensorboard")
    parser.add_argument("--fold", type=int_at_least(0), required=True, help="the fold to validate on")
    parser.add_argument("--name", default="train", help="name in the log")
    parser.add_argument(
        "--gpus", type=int_at_least(0), default=1, help="how many share the training; 0: the CPU"
    )
    add_options(parser, Running)
    add_options(parser, TrainConfig)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
