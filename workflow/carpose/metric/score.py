"""The competition's metric: mean average precision over ten pairs of thresholds for distance and rotation.

Its modes: `given` is the script that everyone used at home; `equal` the same with all confidences equal; and
`leaderboard` what is known of the leaderboard's own scoring. That ignores confidences and measures rotations
by the formula of the competition's page: half of the angle, of quaternions whose sign counts. So there roll
3.13 and −3.13 are 179° apart: it matters in which of its 2π ranges an angle is written.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from carpose.core import cars, pair_search
from carpose.geometry import rotation

TRANSLATION = np.arange(10, 0, -1) / 100  # ‖p−g‖/‖g‖, loosest first
ROTATION_DEG = np.arange(50, 0, -5)
MODES = ["given", "equal", "leaderboard"]
LOOSEST, MIDDLE = 0, 5  # the pairs 10 %, 50° and 5 %, 25°
BANDS = np.array([0, 20, 40, 60, 80, 120, np.inf])  # metres of depth z by which results are told apart
BAND_NAMES = ["0–20", "20–40", "40–60", "60–80", "80–120", ">120"]


def evaluate(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Iterable[str] | None = None,
    mode: str = "given",
) -> dict:
    """Score `predictions` against `truth`.

    image_ids: the images that count (default: all of either table); cars elsewhere are ignored.
    mode: one of MODES. Without confidences all scores are the same once the cars are matched: AP is then
    precision × recall.

    Returns mAP; AP and hits (lists of ten, loosest thresholds first); predictions and truths (counts).
    Without truth or without predictions all AP are 0.
    """
    if image_ids is not None:
        image_ids = pd.Index(image_ids)
        truth = truth[truth["ImageId"].isin(image_ids)]
        predictions = predictions[predictions["ImageId"].isin(image_ids)]
    hits, scores = match(truth, predictions, mode), _confidences(predictions, mode)
    ap = average_precision(hits, scores, len(truth))
    return {
        "mAP": float(ap.mean()),
        "AP": ap.tolist(),
        "hits": hits.sum(axis=0).tolist(),
        "predictions": len(predictions),
        "truths": len(truth),
    }


def evaluate_folds(
    truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, mode: str = "given"
) -> float:
    """mAP of each fold's images by themselves, averaged by their true cars.

    folds: table of ImageId and fold. Each fold's cars come from another network or fit, whose scores need not
    be on one scale: ranked together they would score less than any fold does.
    """
    fold = folds.set_index("ImageId")["fold"]
    truth, predictions = (table[table["ImageId"].isin(fold.index)] for table in (truth, predictions))
    hits, scores = match(truth, predictions, mode), _confidences(predictions, mode)
    of_truth, of_prediction = (fold.loc[table["ImageId"]].to_numpy() for table in (truth, predictions))
    total = 0.0
    for number in np.unique(of_truth):
        inside, count = of_prediction == number, int((of_truth == number).sum())
        total += average_precision(hits[inside], scores[inside], count).mean() * count
    return float(total / max(len(truth), 1))


def _confidences(predictions: pd.DataFrame, mode: str) -> np.ndarray:
    return predictions["score"].to_numpy(float) if mode == "given" else np.ones(len(predictions))


def match(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 10) bool: does prediction i (a row of the table) hit a truth at threshold pair j?"""
    return assign(truth, predictions, mode) >= 0


def assign(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 10) int: the row number in `truth` that prediction i hits at threshold pair j, −1 for none.

    In each image, by descending score (stable), a prediction takes the *nearest remaining* truth by
    relative distance. It is a hit if distance and rotation are both strictly under the thresholds, and
    only then is the truth used up; otherwise the prediction is not tried on a second truth.

    All images and thresholds go in step: a loop over the rank within the image is all that is left.
    """
    image_of_truth, images = pd.factorize(truth["ImageId"])
    image_of_prediction = images.get_indexer(predictions["ImageId"])  # −1: an image without truth
    (row, near), distance = _near_truths(truth, predictions, image_of_truth, image_of_prediction)
    at, true = quaternion(predictions, mode)[row], quaternion(truth, mode)[near]
    angle = np.degrees(_rotation_distance(at, true, mode))

    slot = pair_search.rank(row)
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


def best_threshold(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "equal") -> float:
    """The score from which on cars are kept, by mAP without confidences; 0 where nothing hits.

    A car left out changes what the later ones may hit only by freeing truths, and those lie lower.
    """
    scores, hits = predictions["score"].to_numpy(float), match(truth, predictions, mode)
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


def quaternion(table: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 4) of a table's angles in the metric's own convention, which is not the geometry's.

    SciPy's 'xyz' of pitch, yaw, roll; the leaderboard's is .NET's CreateFromYawPitchRoll, which is
    Ry(yaw)·Rx(pitch)·Rz(roll).
    """
    pitch, yaw, roll = table[cars.ANGLES].to_numpy(float).T
    about_x, about_y, about_z = rotation.about(0, pitch), rotation.about(1, yaw), rotation.about(2, roll)
    if mode == "leaderboard":
        return rotation.product(about_y, rotation.product(about_x, about_z))
    return rotation.product(about_z, rotation.product(about_y, about_x))


def _rotation_distance(a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    """(N,) radians between (N, 4) quaternions; the leaderboard's is the arc cosine of W of a·b⁻¹, 0 … π."""
    if mode == "leaderboard":
        return np.arccos(np.clip((a * b).sum(axis=1), -1, 1))
    return rotation.distance(a, b)


def _near_truths(truth, predictions, image_of_truth, image_of_prediction):
    """The pairs closer than the loosest threshold: (2, P) rows in predictions and truth, by prediction, then
    nearest first; (P,) relative distance.

    A farther truth never decides: where it is the nearest that remains, the prediction is a miss.
    """
    at, true = predictions[cars.POSITION].to_numpy(float), truth[cars.POSITION].to_numpy(float)
    range_at, range_true = (np.sqrt((x**2).sum(axis=1)) for x in (at, true))
    log_at, log_true = (np.log(np.clip(x, 1e-15, 1e15)) for x in (range_at, range_true))
    loosest = TRANSLATION[0]
    p, t = pair_search.pairs_in_range(image_of_prediction, log_at, image_of_truth, log_true, loosest)
    beside = np.abs(at[p, 0] - true[t, 0]) < (loosest + 1e-6) * range_true[t]  # most are not
    p, t = p[beside], t[beside]
    distance = np.sqrt(((at[p] - true[t]) ** 2).sum(axis=1)) / range_true[t]
    close = np.nonzero(distance < loosest)[0]
    close = close[np.lexsort((t[close], distance[close], p[close]))]
    return np.array([p[close], t[close]]), distance[close]


def _by_rank(rows, image, scores):
    """Split rows by their rank within the image: first every image's best row, then every second best …"""
    if not len(rows):
        return []
    rows = rows[np.lexsort((rows, -scores[rows], image[rows]))]
    rank = pair_search.rank(image[rows])
    return np.split(rows[np.argsort(rank, kind="stable")], np.bincount(rank).cumsum()[:-1])
