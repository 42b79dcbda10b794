"""The competition's metric: mean average precision over ten pairs of thresholds for distance and rotation.

In: two tables of cars, truth and predictions (with score). Out: mAP, the ten AP, what each prediction hits.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from . import UserError, cars, kaggle, rotation, runs
from .files import run_main

TRANSLATION = np.arange(10, 0, -1) / 100  # ‖p−g‖/‖g‖, loosest first
ROTATION_DEG = np.arange(50, 0, -5)


def evaluate(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Iterable[str] | None = None,
    equal_confidence: bool = False,
) -> dict:
    """Score `predictions` against `truth`.

    image_ids: the images that count (default: all of either table); cars elsewhere are ignored.
    equal_confidence: treat all scores as the same once the cars are matched (what the leaderboard was
    found to do): AP is then precision × recall.

    Returns mAP; AP and hits (lists of ten, loosest thresholds first); predictions and truths (counts).
    Without truth or without predictions all AP are 0.
    """
    if image_ids is not None:
        image_ids = pd.Index(image_ids)
        truth = truth[truth["ImageId"].isin(image_ids)]
        predictions = predictions[predictions["ImageId"].isin(image_ids)]
    hits = match(truth, predictions)
    scores = np.ones(len(predictions)) if equal_confidence else predictions["score"].to_numpy(float)
    ap = average_precision(hits, scores, len(truth))
    return {
        "mAP": float(ap.mean()),
        "AP": ap.tolist(),
        "hits": hits.sum(axis=0).tolist(),
        "predictions": len(predictions),
        "truths": len(truth),
    }


def match(truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """(N, 10) bool: does prediction i (a row of the table) hit a truth at threshold pair j?"""
    return assign(truth, predictions) >= 0


def assign(truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """(N, 10) int: the row number in `truth` that prediction i hits at threshold pair j, −1 for none.

    In each image, by descending score (stable), a prediction takes the *nearest remaining* truth by
    relative distance. It is a hit if distance and rotation are both strictly under the thresholds, and
    only then is the truth used up; otherwise the prediction is not tried on a second truth.

    All images and thresholds go in step: a loop over the rank within the image is all that is left.
    """
    image_of_truth, images = pd.factorize(truth["ImageId"])
    image_of_prediction = images.get_indexer(predictions["ImageId"])  # −1: an image without truth
    near, distance, angle = _near_truths(truth, predictions, image_of_truth, image_of_prediction)

    candidates, slot, row = _pad(near[0], near[1], len(predictions), fill=len(truth))
    within = np.zeros((*candidates.shape, 10), bool)
    within[row, slot] = (distance[:, None] < TRANSLATION) & (angle[:, None] < ROTATION_DEG)

    used = np.zeros((len(truth) + 1, 10), bool)
    used[-1] = True  # the padding
    assigned = np.full((len(predictions), 10), -1)
    scores = predictions["score"].to_numpy(float)
    for rows in _by_rank(np.unique(near[0]), image_of_prediction, scores):
        free = ~used[candidates[rows]]  # (rows, candidates by distance, 10)
        nearest = free.argmax(axis=1)
        hit = np.take_along_axis(free & within[rows], nearest[:, None], axis=1)[:, 0]
        i, level = np.nonzero(hit)
        car = candidates[rows[i], nearest[i, level]]
        used[car, level] = True
        assigned[rows[i], level] = car
    return assigned


def average_precision(hits: np.ndarray, scores: np.ndarray, truths: int) -> np.ndarray:
    """(N, 10) hits, (N,) scores → (10,) area under the precision-recall steps, Σ (Rₙ − Rₙ₋₁)·Pₙ.

    One step per distinct score, as in scikit-learn's average_precision_score, whose recall reaches 1
    at the last hit: its value × hits/truths is this one.
    """
    if not len(hits) or not truths:
        return np.zeros(10)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(np.diff(scores[order]))[0], len(order) - 1)
    found = hits[order].cumsum(axis=0)[ends]
    precision = found / (ends + 1)[:, None]
    return (np.diff(found, axis=0, prepend=0) * precision).sum(axis=0) / truths


def quaternion(table: pd.DataFrame) -> np.ndarray:
    """(N, 4) of a table's angles in the metric's own convention, 'xyz', which is not the geometry's."""
    pitch, yaw, roll = table[cars.ANGLES].to_numpy(float).T
    return rotation.product(
        rotation.about(2, roll), rotation.product(rotation.about(1, yaw), rotation.about(0, pitch))
    )


def _near_truths(truth, predictions, image_of_truth, image_of_prediction):
    """The pairs closer than the loosest threshold: (2, P) rows in predictions and truth, by prediction, then
    nearest first; (P,) relative distance; (P,) rotation distance in degrees.

    A farther truth never decides: where it is the nearest that remains, the prediction is a miss.
    """
    at, true = predictions[cars.POSITION].to_numpy(float), truth[cars.POSITION].to_numpy(float)
    range_at, range_true = (np.sqrt((x**2).sum(axis=1)) for x in (at, true))
    log_at, log_true = (np.log(np.clip(x, 1e-15, 1e15)) for x in (range_at, range_true))
    loosest = TRANSLATION[0]
    p, t = runs.alike(image_of_prediction, log_at, image_of_truth, log_true, loosest)
    beside = np.abs(at[p, 0] - true[t, 0]) < (loosest + 1e-6) * range_true[t]  # most are not
    p, t = p[beside], t[beside]
    distance = np.sqrt(((at[p] - true[t]) ** 2).sum(axis=1)) / range_true[t]
    close = np.nonzero(distance < loosest)[0]
    close = close[np.lexsort((t[close], distance[close], p[close]))]
    p, t, distance = p[close], t[close], distance[close]
    angle = np.degrees(rotation.distance(quaternion(predictions)[p], quaternion(truth)[t]))
    return np.array([p, t]), distance, angle


def _pad(row, value, rows, fill):
    """Ragged lists, sorted by row → (rows, longest) filled up with `fill`, and each value's slot and row."""
    slot = runs.rank(row)
    padded = np.full((rows, slot.max(initial=0) + 1), fill)
    padded[row, slot] = value
    return padded, slot, row


def _by_rank(rows, image, scores):
    """Split rows by their rank within the image: first every image's best row, then every second best …"""
    rows = rows[np.lexsort((rows, -scores[rows], image[rows]))]
    rank = runs.rank(image[rows])
    return (
        np.split(rows[np.argsort(rank, kind="stable")], np.bincount(rank).cumsum()[:-1]) if len(rows) else []
    )


def read_truth(path: str | Path) -> pd.DataFrame:
    """True cars from a file like train.csv or a Parquet table."""
    return cars.read(path) if Path(path).suffix == ".parquet" else kaggle.read_labels(path)[0]


def read_image_ids(path: str | Path) -> list[str]:
    """The column ImageId of a CSV or Parquet file, each once."""
    try:
        table = pd.read_parquet(path) if Path(path).suffix == ".parquet" else pd.read_csv(path, dtype=str)
        return list(table["ImageId"].unique())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no column ImageId can be read from it ({error})") from error


def check_common(path: str, image_ids: Iterable[str], truth: pd.DataFrame) -> None:
    """Raises UserError where the truth has no car in any of these images: the file is about others."""
    if not truth["ImageId"].isin(image_ids).any():
        raise UserError(
            f"{path}: none of its images has a car in the truth; name files that are about the same photos"
        )


def warn_left_out(path: str, image_ids: list[str], truth: pd.DataFrame) -> None:
    """Images of the truth that a submission has no row for are not counted, which flatters it."""
    with_cars = pd.Index(truth["ImageId"].unique())
    left_out = with_cars[~with_cars.isin(image_ids)]
    if len(left_out):
        print(
            f"warning: {path} has no row for {len(left_out)} of the truth's {len(with_cars)} images, such as "
            f"{left_out[0]}; they are not counted",
            file=sys.stderr,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Mean average precision of predictions, printed as JSON.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--truth", required=True, help="true cars: a CSV like train.csv, or a Parquet table")
    parser.add_argument("--predictions", required=True, help="a submission CSV, or a Parquet table of cars")
    parser.add_argument(
        "--images",
        help="CSV or Parquet whose ImageIds are evaluated; without it the rows of the submission, "
        "or for Parquet all images of truth and predictions",
    )
    parser.add_argument("--equal-confidence", action="store_true", help="treat all scores (0–1) as the same")
    args = parser.parse_args()
    truth = read_truth(args.truth)
    if Path(args.predictions).suffix == ".parquet":
        predictions, image_ids = cars.read(args.predictions, scored=True), None
        if len(predictions):  # a table without cars does not say which images it is about
            check_common(args.predictions, predictions["ImageId"], truth)
    else:
        predictions, image_ids = kaggle.read_submission(args.predictions)
        check_common(args.predictions, image_ids, truth)
    if args.images:
        image_ids = read_image_ids(args.images)
        check_common(args.images, image_ids, truth)
    elif image_ids is not None:
        warn_left_out(args.predictions, image_ids, truth)
    result = evaluate(truth, predictions, image_ids, args.equal_confidence)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_main(main)
