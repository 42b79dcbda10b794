"""The competition's metric: mean average precision over ten pairs of thresholds for distance and rotation.

Its modes: `given` is the evaluation script that participants shared on Kaggle; `equal` is the same with all
confidences equal; `leaderboard` is what is known of the leaderboard's own scoring. The latter ignores
confidences and measures rotations by the formula of the competition's page: half of the angle between two
quaternions, whose sign counts. With it roll 3.13 and roll −3.13 are 179° apart, although they are nearly the
same rotation. So it matters to which multiple of 2π an angle is given.
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
BANDS = np.array([0, 20, 40, 60, 80, 120, np.inf])  # metres of depth z: edges of the bands in result tables
BAND_NAMES = ["0–20", "20–40", "40–60", "60–80", "80–120", ">120"]


def evaluate(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Iterable[str] | None = None,
    mode: str = "given",
) -> dict:
    """Score `predictions` against `truth`.

    image_ids: the images that count (default: all of either table); cars elsewhere are ignored.
    mode: one of MODES. The modes that ignore confidences still match cars by descending score; their AP is
    precision × recall.

    Returns mAP; AP and hits (lists of ten, loosest thresholds first); predictions and truths (numbers of
    cars). Without truth or without predictions all AP are 0.
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
    """mAP of each fold's images alone, averaged over the folds with their number of true cars as weight.

    folds: table of ImageId and fold. Each fold is predicted by another network or fit, and their scores need
    not be on one scale: ranked together they could score less than any fold does.
    """
    fold = folds.set_index("ImageId")["fold"]
    truth, predictions = (table[table["ImageId"].isin(fold.index)] for table in (truth, predictions))
    hits, scores = match(truth, predictions, mode), _confidences(predictions, mode)
    of_truth, of_prediction = (fold.loc[table["ImageId"]].to_numpy() for table in (truth, predictions))
    total = 0.0
    for number in np.unique(of_truth):
        in_fold, count = of_prediction == number, int((of_truth == number).sum())
        total += average_precision(hits[in_fold], scores[in_fold], count).mean() * count
    return float(total / max(len(truth), 1))


def _confidences(predictions: pd.DataFrame, mode: str) -> np.ndarray:
    return predictions["score"].to_numpy(float) if mode == "given" else np.ones(len(predictions))


def match(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 10) bool: does prediction i (a row of the table) hit a true car at threshold pair j?"""
    return assign(truth, predictions, mode) >= 0


def assign(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 10) int: the row number in `truth` that prediction i hits at threshold pair j, −1 for none.

    In each image, by descending score (stable), a prediction takes the *nearest remaining* truth by
    relative distance ‖p−g‖/‖g‖. It is a hit if distance and rotation are both strictly under the thresholds,
    and only then is the truth used up; otherwise the prediction is not tried on a second truth.

    All images and thresholds are processed at once; the only loop is over the rank within an image.
    """
    image_of_truth, images = pd.factorize(truth["ImageId"])
    image_of_prediction = images.get_indexer(predictions["ImageId"])  # −1: an image without truth
    (row, near), distance = _near_truths(truth, predictions, image_of_truth, image_of_prediction)
    predicted, true = quaternion(predictions, mode)[row], quaternion(truth, mode)[near]
    angle = np.degrees(_rotation_distance(predicted, true, mode))

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

    truths: number of true cars. One step per distinct score. scikit-learn's average_precision_score takes the
    hits for all truths, so that its recall ends at 1: this is its value times hits/truths.
    """
    if not len(hits) or not truths:
        return np.zeros(10)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(np.diff(scores[order]))[0], len(order) - 1)
    hits_so_far = hits[order].cumsum(axis=0)[ends]
    precision = hits_so_far / (ends + 1)[:, None]
    return (np.diff(hits_so_far, axis=0, prepend=0) * precision).sum(axis=0) / truths


def best_threshold(truth: pd.DataFrame, predictions: pd.DataFrame, mode: str = "equal") -> float:
    """The score threshold (cars with score ≥ it are kept) of the highest mAP in a mode that ignores
    confidences; 0 where no car hits.

    One matching serves all thresholds: cars are matched by descending score, so the cars below a threshold
    do not change what those above it hit.
    """
    scores, hits = predictions["score"].to_numpy(float), match(truth, predictions, mode)
    if not hits.any() or not len(truth):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits_so_far = hits[order].cumsum(axis=0)
    mean_ap = (hits_so_far**2 / np.arange(1, len(order) + 1)[:, None] / len(truth)).mean(axis=1)
    # Halfway between two cars, so that rounding of a score does not change what is kept.
    best = int(mean_ap.argmax())
    below = scores[order[best + 1]] if best + 1 < len(order) else 0.0
    return float((scores[order[best]] + below) / 2)


def band_of(table: pd.DataFrame) -> np.ndarray:
    """(N,) index into BAND_NAMES of each car, by its depth z."""
    return np.searchsorted(BANDS, table["z"].to_numpy(float).clip(0), side="right") - 1


def quaternion(table: pd.DataFrame, mode: str = "given") -> np.ndarray:
    """(N, 4) quaternions of a table's angles in the metric's convention, which is not carpose.geometry's.

    Mode `leaderboard` is .NET's CreateFromYawPitchRoll, Ry(yaw)·Rx(pitch)·Rz(roll); the other modes are
    SciPy's from_euler('xyz', [pitch, yaw, roll]), Rz(roll)·Ry(yaw)·Rx(pitch).
    """
    pitch, yaw, roll = table[cars.ANGLES].to_numpy(float).T
    about_x, about_y, about_z = rotation.about(0, pitch), rotation.about(1, yaw), rotation.about(2, roll)
    if mode == "leaderboard":
        return rotation.product(about_y, rotation.product(about_x, about_z))
    return rotation.product(about_z, rotation.product(about_y, about_x))


def _rotation_distance(a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    """(N,) radians between (N, 4) quaternions; mode leaderboard: the arc cosine of the real part W of a·b⁻¹,
    0 … π."""
    if mode == "leaderboard":
        return np.arccos(np.clip((a * b).sum(axis=1), -1, 1))
    return rotation.distance(a, b)


def _near_truths(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_of_truth: np.ndarray,
    image_of_prediction: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs closer than the loosest threshold: (2, P) rows in predictions and truth, by prediction, then
    nearest first; (P,) relative distance.

    A farther truth changes nothing: a prediction whose nearest remaining truth it is, is a miss anyway.
    """
    predicted, true = predictions[cars.POSITION].to_numpy(float), truth[cars.POSITION].to_numpy(float)
    predicted_range, true_range = (np.sqrt((x**2).sum(axis=1)) for x in (predicted, true))
    predicted_log, true_log = (np.log(np.clip(x, 1e-15, 1e15)) for x in (predicted_range, true_range))
    loosest = TRANSLATION[0]
    p, t = pair_search.pairs_in_range(image_of_prediction, predicted_log, image_of_truth, true_log, loosest)
    # A cheap test on x alone first, which few pairs pass.
    near_in_x = np.abs(predicted[p, 0] - true[t, 0]) < (loosest + 1e-6) * true_range[t]
    p, t = p[near_in_x], t[near_in_x]
    distance = np.sqrt(((predicted[p] - true[t]) ** 2).sum(axis=1)) / true_range[t]
    close = np.nonzero(distance < loosest)[0]
    close = close[np.lexsort((t[close], distance[close], p[close]))]
    return np.array([p[close], t[close]]), distance[close]


def _by_rank(rows: np.ndarray, image: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Split rows by their rank within the image: first every image's best row, then every second best …"""
    if not len(rows):
        return []
    rows = rows[np.lexsort((rows, -scores[rows], image[rows]))]
    rank = pair_search.rank(image[rows])
    return np.split(rows[np.argsort(rank, kind="stable")], np.bincount(rank).cumsum()[:-1])
