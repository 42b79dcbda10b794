"""Predict: the trained folds of one model → tables of cars.

In: the checkpoints of all folds, the picture cache, folds.parquet. Out: `oof` (each training photo by the
fold's network that never saw it), `test` (the outputs of all folds' networks averaged, then decoded) and
`test_folds` (each fold's network by itself, which pseudo labels need). Each says which photos it covers.
"""

import argparse
from pathlib import Path

import torch

from carpose.config.options import add_options, from_options
from carpose.config.sections import Predict, Running
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.core.options import int_at_least, program
from carpose.kaggle.read import read_test_images
from carpose.network.device import acquire_device, worker_count

from .cars import predict_cars
from .networks import load_networks

RUNNING = ("workers", "graphs")  # the keys that a prediction heeds


def main() -> int:
    args = parse()
    settings, running = from_options(args, Predict), from_options(args, Running, RUNNING)
    torch.set_num_threads(args.threads)
    check_outputs(args.oof, args.test, args.test_folds)
    folds, test_ids = parquet.read_folds(args.folds), read_test_images(args.images, excluded=False)
    if (count := folds["fold"].nunique()) > len(args.checkpoints) and not args.fewer_folds:
        raise UserError(
            f"--checkpoints: {len(args.checkpoints)} for the {count} folds of {args.folds}; name each fold's"
            " model, or give --fewer-folds to leave the photos of the others out"
        )
    out_of_fold, train_ids = [], []
    with acquire_device(args.gpus) as device:
        networks, train_config = load_networks(args.checkpoints, device, settings.runtime, running.graphs)

        def predict(members: list[torch.nn.Module], image_ids: list[str], label: str):
            options = {"workers": worker_count(running.workers), "label": label}
            return predict_cars(members, train_config, args.cache, image_ids, device, settings, **options)

        for fold, network in enumerate(networks):
            image_ids = folds.ImageId[folds.fold == fold].tolist()
            table, _ = predict([network], image_ids, f"fold {fold}")
            out_of_fold.append(table.assign(fold=fold))
            train_ids += image_ids
        together, alone = predict(networks, test_ids, "test")
    cars.write(args.oof, cars.concat(out_of_fold), train_ids)
    cars.write(args.test, together, test_ids)
    by_fold = [table.assign(fold=fold) for fold, table in enumerate(alone)]
    cars.write(args.test_folds, cars.concat(by_fold), test_ids, range(len(by_fold)))
    print(f"{len(train_ids)} training photos, {sum(map(len, out_of_fold))} cars", end="; ")
    print(f"{len(test_ids)} test photos, {len(together)} cars")
    return 0


def parse() -> argparse.Namespace:
    parser = program("carpose.predict", __doc__)
    parser.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, help="model.pt of fold 0, 1, … of one model"
    )
    parser.add_argument(
        "--fewer-folds", action="store_true", help="predict with the first folds' models alone"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the picture cache")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    parser.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    parser.add_argument("--oof", type=Path, required=True, help="output: out-of-fold predictions")
    parser.add_argument("--test", type=Path, required=True, help="output: test photos, folds averaged")
    parser.add_argument("--test-folds", type=Path, required=True, help="output: test photos, fold by fold")
    parser.add_argument(
        "--threads", type=int_at_least(1), default=1, help="threads of the network on the CPU"
    )
    parser.add_argument("--gpus", type=int_at_least(0), default=1, help="0: compute on the CPU")
    add_options(parser, Predict)
    add_options(parser, Running, RUNNING)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
