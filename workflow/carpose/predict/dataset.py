"""Predict all photos of a data set with the trained networks of all folds of one model.

In: the checkpoints of all folds, the image cache, folds.parquet. Out: `oof` (out-of-fold predictions: each
training photo by the network of its own fold, which was not trained on it), `test` (test photos: outputs of
all networks averaged, then decoded) and `test_folds` (test photos: each network by itself, for pseudo
labels). Each table records which photos it covers.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from carpose.config.options import add_options, from_options
from carpose.config.sections import Predict, Running
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import check_outputs
from carpose.core.options import int_at_least
from carpose.kaggle.read import read_test_images
from carpose.metric import evaluate_folds
from carpose.network.device import acquire_device, worker_count

from .cars import predict_cars
from .networks import load_networks

RUNNING_KEYS = ("workers", "cuda_graphs")  # the keys of `running` that a prediction uses


def run(args: argparse.Namespace) -> int:
    settings, running = from_options(args, Predict), from_options(args, Running, RUNNING_KEYS)
    torch.set_num_threads(args.threads)
    check_outputs(args.oof, args.test, args.test_folds)
    folds, test_ids = parquet.read_folds(args.folds), read_test_images(args.images, excluded=False)
    if (count := folds["fold"].nunique()) > len(args.checkpoints) and not args.fewer_folds:
        raise UserError(
            f"--checkpoints: {len(args.checkpoints)} for the {count} folds of {args.folds}; name the "
            "checkpoint of each fold, or use --fewer-folds to leave out the photos of the other folds"
        )
    out_of_fold, train_ids = [], []
    with acquire_device(args.gpus) as device:
        networks, train_config = load_networks(
            args.checkpoints, device, settings.runtime, running.cuda_graphs
        )

        def predict(networks_used: list[torch.nn.Module], image_ids: list[str], label: str) -> tuple:
            options: dict[str, Any] = {"workers": worker_count(running.workers), "label": label}
            return predict_cars(
                networks_used, train_config, args.cache, image_ids, device, settings, **options
            )

        for fold, network in enumerate(networks):
            image_ids = folds.ImageId[folds.fold == fold].tolist()
            table, _ = predict([network], image_ids, f"fold {fold}")
            out_of_fold.append(table.assign(fold=fold))
            train_ids += image_ids
        averaged, by_network = predict(networks, test_ids, "test")
    cars.write(args.oof, cars.concat(out_of_fold), train_ids)
    cars.write(args.test, averaged, test_ids)
    by_fold = [table.assign(fold=fold) for fold, table in enumerate(by_network)]
    cars.write(args.test_folds, cars.concat(by_fold), test_ids, range(len(by_fold)))
    print(f"{len(train_ids)} training photos, {sum(map(len, out_of_fold))} cars", end="; ")
    print(f"{len(test_ids)} test photos, {len(averaged)} cars")
    if args.labels:
        predicted = folds[folds["ImageId"].isin(train_ids)]
        score = evaluate_folds(cars.read(args.labels), cars.concat(out_of_fold), predicted)
        print(f"{args.oof}: mAP {score:.4f} out of fold")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, help="model.pt of fold 0, 1, … of one model"
    )
    parser.add_argument(
        "--fewer-folds", action="store_true", help="allow checkpoints of the first folds alone"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the image cache")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet (carpose.kaggle check)")
    parser.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    parser.add_argument("--labels", type=Path, help="labels.parquet, to print the out-of-fold mAP")
    parser.add_argument("--oof", type=Path, required=True, help="output: out-of-fold predictions")
    parser.add_argument("--test", type=Path, required=True, help="output: test photos, all folds averaged")
    parser.add_argument(
        "--test-folds", type=Path, required=True, help="output: test photos, each fold by itself"
    )
    parser.add_argument("--threads", type=int_at_least(1), default=1, help="torch threads on the CPU")
    parser.add_argument("--gpus", type=int_at_least(0), default=1, help="1: use a GPU, 0: the CPU")
    add_options(parser, Predict)
    add_options(parser, Running, RUNNING_KEYS)
