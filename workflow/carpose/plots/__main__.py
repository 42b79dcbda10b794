"""Pictures of a run: predictions, the course of trainings, the table of scores."""

import argparse
from pathlib import Path

import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import run_main
from carpose.core.options import NAMED, commands, named_paths, program, whole
from carpose.drawing.figures import predictions_figure
from carpose.kaggle.read import read_test_images, read_truth

from .figures import evaluation_figure, history_figure, save


def main() -> None:
    parser = program("carpose.plots", __doc__)
    add = commands(parser)
    sub = add("predictions", "test photos with predicted and true cars, front and above", predictions)
    sub.add_argument("--data", type=Path, required=True, help="folder of the competition's layout")
    sub.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    sub.add_argument("--cars", type=Path, required=True, help="Parquet table of predicted cars")
    sub.add_argument("--truth", type=Path, help="true cars of the test photos, CSV like train.csv or Parquet")
    sub.add_argument("--count", type=whole(1), default=6, help="how many photos, from few cars to many")
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    sub = add("history", "the course of trainings: losses, rate, mAP and time by epoch", history)
    sub.add_argument("--histories", required=True, **NAMED, help="history.csv of carpose.train")
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    sub = add("evaluation", "the table of scores as bars", evaluation)
    sub.add_argument("--table", type=Path, required=True, help="evaluation.csv of carpose.evaluation")
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    args.action(args)


def predictions(args: argparse.Namespace) -> None:
    truth = read_truth(args.truth) if args.truth else None
    image_ids = read_test_images(args.images, excluded=False)
    save(predictions_figure(args.data, image_ids, cars.read(args.cars), truth, args.count), args.output)


def history(args: argparse.Namespace) -> None:
    tables = {name: read_csv(path) for name, path in named_paths(args.histories).items()}
    save(history_figure(tables), args.output)


def evaluation(args: argparse.Namespace) -> None:
    save(evaluation_figure(read_csv(args.table)), args.output)


def read_csv(path: str | Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from error


if __name__ == "__main__":
    run_main(main)
