"""Figures of a run: predictions, learning curves of trainings, the table of scores."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from carpose.core import cars, parquet
from carpose.core.files import run_main
from carpose.core.options import NAME_PATHS, commands, int_at_least, named_paths, program
from carpose.core.tables import read_csv
from carpose.drawing.figures import predictions_figure
from carpose.kaggle.read import (
    Predictions,
    check_coverage,
    check_same_photos,
    read_test_images,
    read_truth,
)

from .figures import add_lenient, draw, evaluation_figure, history_figure
from .overlay import add_arguments, overlay


def main() -> None:
    parser = program("carpose.plots", __doc__)
    add = commands(parser)
    sub = add("predictions", "test photos with predicted and true cars, and these from above", predictions)
    add_lenient(sub)
    sub.add_argument("--data", type=Path, required=True, help="folder of the competition's layout")
    sub.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    sub.add_argument("--cars", type=Path, required=True, help="Parquet table of predicted cars")
    sub.add_argument("--truth", type=Path, help="true cars of the test photos, CSV like train.csv or Parquet")
    sub.add_argument(
        "--count", type=int_at_least(1), default=6, help="number of photos, spread from few cars to many"
    )
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    sub = add("history", "learning curves: losses, learning rate, mAP and time by epoch", history)
    add_lenient(sub)
    sub.add_argument("--histories", required=True, **NAME_PATHS, help="history.csv of carpose.train")
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    sub = add("evaluation", "the table of scores as bars", evaluation)
    add_lenient(sub)
    sub.add_argument("--table", type=Path, required=True, help="evaluation.csv of carpose.evaluation")
    sub.add_argument("--output", type=Path, required=True, help="PNG to write")
    sub = add("overlay", "one photo of any camera with the cars of any table, and from above", overlay)
    add_lenient(sub)
    add_arguments(sub)
    args = parser.parse_args()
    draw(args.output, lambda: args.action(args), args.lenient)


def predictions(args: argparse.Namespace) -> Figure:
    image_ids = read_test_images(args.images, excluded=False)
    predicted = Predictions(args.cars, cars.read(args.cars), parquet.about(args.cars).get("image_ids"))
    check_coverage({"predicted": predicted}, image_ids)
    check_same_photos(args.cars, predicted.cars, image_ids)
    truth = None
    if args.truth:
        truth = read_truth(args.truth)
        check_same_photos(args.truth, truth, image_ids)
    return predictions_figure(args.data, image_ids, predicted.cars, truth, args.count)


def history(args: argparse.Namespace) -> Figure:
    return history_figure({name: read_csv(path) for name, path in named_paths(args.histories).items()})


def evaluation(args: argparse.Namespace) -> Figure:
    return evaluation_figure(read_csv(args.table))


if __name__ == "__main__":
    run_main(main)
