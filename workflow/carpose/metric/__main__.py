"""The competition's metric: mean average precision over ten pairs of thresholds for distance and rotation.

In: two tables of cars, truth and predictions (with score). Out: JSON with mAP, the ten AP and hits.

The default is the evaluation script that participants shared on Kaggle; --leaderboard is what is known of the
leaderboard's own scoring.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import pandas as pd

from carpose.core.errors import UserError
from carpose.core.files import run_main
from carpose.core.options import program
from carpose.kaggle.read import add_strict, read_image_ids, read_predictions, read_truth

from .score import evaluate


def check_common(path: str, image_ids: Iterable[str], truth: pd.DataFrame) -> None:
    """Raises UserError where the truth has no car in any of these images: the file is about other photos."""
    if not truth["ImageId"].isin(image_ids).any():
        text = "none of its images has a car in the truth; pass files that are about the same photos"
        raise UserError(f"{path}: {text}")


def warn_left_out(path: str, image_ids: list[str], truth: pd.DataFrame) -> None:
    """Warns where images of the truth are missing from the predictions' file: their cars are not counted as
    missed, so the score is too high."""
    with_cars = pd.Index(truth["ImageId"].unique())
    left_out = with_cars[~with_cars.isin(image_ids)]
    if len(left_out):
        text = f"{path} does not cover {len(left_out)} of the truth's {len(with_cars)} images, such as"
        print(f"warning: {text} {left_out[0]}; they are not counted", file=sys.stderr)


def main() -> None:
    parser = program("carpose.metric", __doc__)
    parser.add_argument("--truth", required=True, help="true cars: a CSV like train.csv, or a Parquet table")
    parser.add_argument("--predictions", required=True, help="a submission CSV, or a Parquet table of cars")
    text = "CSV or Parquet whose ImageIds are evaluated (default: the images that were predicted; where a "
    text += "Parquet table does not list them, all images of truth and predictions)"
    parser.add_argument("--images", help=text)
    modes = parser.add_mutually_exclusive_group()
    equal: dict[str, Any] = {"dest": "mode", "action": "store_const", "const": "equal"}
    modes.add_argument("--equal-confidence", **equal, help="ignore the scores: all cars count the same")
    text = "ignore the scores, and compare rotations as the competition's page does: by half of the angle, "
    text += "of quaternions whose sign counts"
    modes.add_argument("--leaderboard", **equal | {"const": "leaderboard"}, help=text)
    parser.set_defaults(mode="given")
    add_strict(parser)
    args = parser.parse_args()
    truth, predictions = read_truth(args.truth), read_predictions(args.predictions, args.strict)
    image_ids = predictions.image_ids
    predicted_ids = predictions.cars["ImageId"].tolist() if image_ids is None else image_ids
    if predicted_ids or image_ids is not None:  # a table without cars need not list its images
        check_common(args.predictions, predicted_ids, truth)
    if args.images:
        image_ids = read_image_ids(args.images)
        check_common(args.images, image_ids, truth)
    elif image_ids is not None:
        warn_left_out(args.predictions, image_ids, truth)
    result = evaluate(truth, predictions.cars, image_ids, args.mode)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_main(main)
