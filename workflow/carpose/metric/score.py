"""The competition's metric: mean average precision over ten pairs of thresholds for distance and rotation."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from carpose.core import cars, runs
from carpose.geometry import rotation

TRANSLATION = np.arange(10, 0, -1) / 100  # ‖p−g‖/‖g‖, loosest first
ROTATION_DEG = np.arange(50, 0, -5)
LOOSEST, MIDDLE = 0, 5  # the pairs 10 %, 50° and 5 %, 25°
BANDS = np.array([0, 20, 40, 60, 80, 120, np.inf])  # metres of depth z by which results are told apart
BAND_NAMES = ["0–20", "20–40", "40–60", "60–80", "80–120", ">120"]


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
    (row, near), distance, angle = _near_truths(truth, predictions, image_of_truth, image_of_prediction)

    slot = runs.rank(row)
    candidates = np.full((len(predictions), slot.max(initial=0) + 1), len(truth))  # by distance, padded
    candidates[row, slot] = near
    within = np.zeros((*candidates.shape, 10), bool)
    within[row, slot] = (distance[:, None] < TRANSLATION) & (angle[:, None] < ROTATION_DEG)

    used = np.zeros((len(truth) + 1, 10), bool)
    used[-1] = True  # the padding
    assigned = np.full((len(predictions), 10), -1)
    scores = predictions["score"].to_numpy(float)
    for rows in _by_rank(np.unique(row), image_of_prediction, scores):
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
    hits_so_far = hits[order].cumsum(axis=0)[ends]
    precision = hits_so_far / (ends + 1)[:, None]
    return (np.diff(hits_so_far, axis=0, prepend=0) * precision).sum(axis=0) / truths


def best_threshold(truth: pd.DataFrame, predictions: pd.DataFrame) -> float:
    """The score from which on cars are kept, by mAP with equal confidences; 0 where nothing hits.

    A car left out changes what the later ones may hit only by freeing truths, and those lie lower.
    """
    scores, hits = predictions["score"].to_numpy(float), match(truth, predictions)
    if not hits.any() or not len(truth):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits_so_far = hits[order].cumsum(axis=0)
    value = (hits_so_far**2 / np.arange(1, len(order) + 1)[:, None] / len(truth)).mean(axis=1)
    # Between two cars, so that the cut does not hang on the last digit of a score.
    best = int(value.argmax())
    below = scores[order[best + 1]] if best + 1 < len(order) else 0.0
    return float((scores[order[best]] + below) / 2)


def band_of(table: pd.DataFrame) -> np.ndarray:
    """(N,) which of BAND_NAMES each car is in."""
    return np.searchsorted(BANDS, table["z"].to_numpy(float).clip(0), side="right") - 1


def quaternion(table: pd.DataFrame) -> np.ndarray:
    """(N, 4) of a table's angles in the metric's own convention, 'xyz', which is not the geometry's."""
    pitch, yaw, roll = table[cars.ANGLES].to_numpy(float).T
    turn = rotation.product(rotation.about(1, yaw), rotation.about(0, pitch))
    return rotation.product(rotation.about(2, roll), turn)


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


def _by_rank(rows, image, scores):
    """Split rows by their rank within the image: first every image's best row, then every second best …"""
    if not len(rows):
        return []
    rows = rows[np.lexsort((rows, -scores[rows], image[rows]))]
    rank = runs.rank(image[rows])
    return np.split(rows[np.argsort(rank, kind="stable")], np.bincount(rank).cumsum()[:-1])
