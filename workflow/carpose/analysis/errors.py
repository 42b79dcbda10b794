"""Tables of the errors of predictions. In: true and predicted cars of the same images."""

import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars
from carpose.geometry import camera, meshes, rotation
from carpose.metric.score import BAND_NAMES, LOOSEST, MIDDLE, ROTATION_DEG, TRANSLATION, band_of, quaternion

MAX_ACROSS, MAX_LOG_RANGE = 2.0, np.log(1.5)  # metres, ratio: a prediction farther from a car is not of it
HIDDEN = [0.1, 0.5]  # shares of a hidden car: edges of the groups
GROUPS = {
    "distance": BAND_NAMES,
    "seen side": ["rear", "45°", "90°", "135°", "front", "−135°", "−90°", "−45°"],
    "hidden": ["under 10 %", "10–50 %", "over 50 %"],
    "heading": ["along the road", "across"],
    "edge": ["whole", "cut off"],
    "centre": ["in the photo", "outside"],
}
ACROSS = np.pi / 6  # angle between heading and the camera's axis above which a car counts as across
CUT_OFF = 0.1  # share of a car's rectangle outside the photo, above which the car counts as cut off
IN_FRONT = 0.9  # a car nearer than this fraction of another's distance can hide it
SCORE_BINS, SIGMA_BINS = 10, 5


def pair_with_truth(truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """(N,) the row in `truth` that each prediction is paired with, −1 for none; each truth is paired once.

    Pairs may be farther apart than the metric's thresholds, to tell inaccurate predictions from false ones:
    by up to 2 m across the ray or a factor of 1.5 along it (an ellipse of both). Predictions choose by
    descending score, each the nearest truth that is left.
    """
    pairs = _pairs(predictions, truth)
    predicted = predictions[cars.POSITION].to_numpy(float)[pairs["p"]]
    true = truth[cars.POSITION].to_numpy(float)[pairs["t"]]
    distance, true_distance = np.linalg.norm(predicted, axis=1), np.linalg.norm(true, axis=1)
    cosine = (predicted * true).sum(axis=1) / (distance * true_distance)
    across = np.arccos(np.clip(cosine, -1, 1)) * true_distance / MAX_ACROSS
    pairs["cost"] = np.hypot(across, np.log(distance / true_distance) / MAX_LOG_RANGE)
    pairs["score"] = predictions["score"].to_numpy(float)[pairs["p"]]
    pairs = pairs[pairs["cost"] < 1].sort_values(["score", "p", "cost"], ascending=[False, True, True])
    matched_truth, used = np.full(len(predictions), -1), np.zeros(len(truth), bool)
    for p, t in zip(pairs["p"].to_numpy(), pairs["t"].to_numpy(), strict=True):
        if matched_truth[p] < 0 and not used[t]:
            matched_truth[p], used[t] = t, True
    return matched_truth


def _pairs(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """All pairs of a row p of `predictions` and a row t of `truth` with the same ImageId."""
    left = pd.DataFrame({"ImageId": predictions["ImageId"].to_numpy(), "p": np.arange(len(predictions))})
    right = pd.DataFrame({"ImageId": truth["ImageId"].to_numpy(), "t": np.arange(len(truth))})
    return left.merge(right, on="ImageId")


def seen_side(table: pd.DataFrame) -> np.ndarray:
    """(N,) angle between the line of sight and the heading in steps of 45°, 0 … 7: 0 is seen from the
    rear."""
    heading = rotation.matrix(table[cars.ANGLES])[:, :, 2]
    angle = np.arctan2(heading[:, 0], heading[:, 2]) - np.arctan2(table["x"], table["z"]).to_numpy()
    return np.round(angle / (np.pi / 4)).astype(int) % 8


def is_across(table: pd.DataFrame) -> np.ndarray:
    """(N,) whether each car heads neither away from the camera nor towards it, within ACROSS."""
    heading = rotation.matrix(table[cars.ANGLES])[:, :, 2]
    return np.abs(heading[:, 0]) > np.sin(ACROSS) * np.hypot(heading[:, 0], heading[:, 2])


def rectangles(table: pd.DataFrame, intrinsics: np.ndarray) -> np.ndarray:
    """(N, 4) left, top, right, bottom in pixels of a typical car's box at each pose."""
    corners = np.einsum("nij,kj->nki", rotation.matrix(table[cars.ANGLES]), meshes.CAR_CORNERS)
    corners = corners + table[cars.POSITION].to_numpy(float)[:, None]
    corners[..., 2] = np.maximum(corners[..., 2], meshes.NEAR)
    pixels = camera.project(intrinsics, corners)
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)


def clipped(boxes: np.ndarray, photo_size: tuple[int, int]) -> np.ndarray:
    """(N, 4) the part of each rectangle that lies in the photo."""
    return np.clip(boxes, 0, np.tile(np.array(photo_size) - 1.0, 2))


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) square pixels of rectangles (N, 4)."""
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)


def hidden_share(
    table: pd.DataFrame, truth: pd.DataFrame, intrinsics: np.ndarray, photo_size: tuple[int, int]
) -> np.ndarray:
    """(N,) share of each car's rectangle that is covered by rectangles of true cars clearly nearer, 0 … 1.

    The shares of several nearer cars are added, which counts their overlap twice.
    """
    boxes, true_boxes = (clipped(rectangles(rows, intrinsics), photo_size) for rows in (table, truth))
    distance, true_distance = (np.linalg.norm(rows[cars.POSITION], axis=1) for rows in (table, truth))
    i, j = _pairs(table, truth)[["p", "t"]].to_numpy().T
    nearer = true_distance[j] < IN_FRONT * distance[i]
    i, j = i[nearer], j[nearer]
    overlap = np.minimum(boxes[i, 2:], true_boxes[j, 2:]) - np.maximum(boxes[i, :2], true_boxes[j, :2])
    covered = np.bincount(i, overlap.clip(0).prod(axis=1), minlength=len(table))
    return np.clip(covered / areas(boxes), 0, 1)


def groups(
    table: pd.DataFrame, truth: pd.DataFrame, intrinsics: np.ndarray, photo_size: tuple[int, int]
) -> pd.DataFrame:
    """Names of the groups that each car is in, one column per division of GROUPS: distance (metres of z),
    seen side, hidden share, heading, whether the photo's edge cuts the car off, and whether its centre is in
    the photo."""
    uv = camera.project(intrinsics, table[cars.POSITION].to_numpy(float))
    inside = ((uv > -0.5) & (uv < np.array(photo_size) - 0.5)).all(axis=1)
    share = hidden_share(table, truth, intrinsics, photo_size)
    boxes = rectangles(table, intrinsics)
    cut_off = 1 - areas(clipped(boxes, photo_size)) / areas(boxes) > CUT_OFF
    numbers = [band_of(table), seen_side(table), np.searchsorted(HIDDEN, share)]
    numbers += [is_across(table).astype(int), cut_off.astype(int), np.where(inside, 0, 1)]
    divisions = zip(GROUPS.items(), numbers, strict=True)
    return pd.DataFrame({division: np.array(names)[number] for (division, names), number in divisions})


def by_group(
    truth: pd.DataFrame, predictions: pd.DataFrame, intrinsics: np.ndarray, photo_size: tuple[int, int]
) -> pd.DataFrame:
    """mAP and recall of each group of cars: by (the division), group, truths (number of true cars), mAP,
    recall as the mean over the ten pairs of thresholds, at the loosest and at the middle pair.

    A prediction that hits a car of another group is ignored; one that hits none is a false car of the group
    of its predicted pose (as COCO treats sizes). Model types have recall only, since predictions have none.
    """
    assigned = metric.assign(truth, predictions)
    scores = predictions["score"].to_numpy(float)
    of_truth, of_predictions = (
        groups(table, truth, intrinsics, photo_size) for table in (truth, predictions)
    )
    rows = []

    def add(division: str, name: str, in_group: np.ndarray, predicted_in_group: np.ndarray | None) -> None:
        hits = [np.isin(np.flatnonzero(in_group), assigned[:, level]) for level in range(10)]
        levels = range(10) if predicted_in_group is not None and in_group.any() else []
        mean_ap = 0.0 if levels else np.nan
        for level in levels:
            hit = assigned[:, level] >= 0
            counts = np.where(hit, in_group[assigned[:, level]], predicted_in_group)
            ap = metric.average_precision(hit[counts, None], scores[counts], in_group.sum())[0]
            mean_ap += ap / 10
        recall = [hit.mean() if len(hit) else np.nan for hit in hits]
        recalls = np.mean(recall), recall[LOOSEST], recall[MIDDLE]
        rows.append((division, name, int(in_group.sum()), mean_ap, *recalls))

    for division, names in GROUPS.items():
        for name in names:
            in_group = (of_truth[division] == name).to_numpy()
            add(division, name, in_group, (of_predictions[division] == name).to_numpy())
    if "model_type" in truth:
        for model_type in sorted(truth["model_type"].unique()):
            add("model type", str(model_type), (truth["model_type"] == model_type).to_numpy(), None)
    columns = ["by", "group", "truths", "mAP", "recall", "recall_10%_50deg", "recall_5%_25deg"]
    return pd.DataFrame(rows, columns=columns)


def by_threshold(truth: pd.DataFrame, predictions: pd.DataFrame, matched_truth: np.ndarray) -> pd.DataFrame:
    """For each pair of thresholds, the share of the true cars that is hit, fails one or both, or is missed.

    matched_truth: of `pair_with_truth`. The metric's own matching can differ from it by a few cars.
    """
    paired = matched_truth >= 0
    predicted = predictions[cars.POSITION].to_numpy(float)[paired]
    true = truth[cars.POSITION].to_numpy(float)[matched_truth[paired]]
    distance = np.linalg.norm(predicted - true, axis=1) / np.linalg.norm(true, axis=1)
    angle = rotation.distance(quaternion(predictions)[paired], quaternion(truth)[matched_truth[paired]])
    near = distance[:, None] < TRANSLATION
    aligned = np.degrees(angle)[:, None] < ROTATION_DEG
    outcomes = {"hit": near & aligned, "fails_distance": ~near & aligned}
    outcomes |= {"fails_rotation": near & ~aligned, "fails_both": ~near & ~aligned}
    table = pd.DataFrame({"distance_%": 100 * TRANSLATION, "rotation_deg": ROTATION_DEG})
    for name, has_outcome in outcomes.items():
        table[name] = has_outcome.sum(axis=0) / max(len(truth), 1)
    return table.assign(missed=1 - paired.sum() / max(len(truth), 1))


def oracles(
    truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, matched_truth: np.ndarray
) -> pd.DataFrame:
    """Out-of-fold mAP if a single error were corrected (column oracle), and its gain. Gains do not add up.

    matched_truth: of `pair_with_truth`. True depth moves a car along its predicted ray; true centre moves the
    ray and keeps z. No misses removes the truths without a prediction (as TIDE does: Bolya et al. 2020); no
    false cars removes the predictions without a truth, duplicates included. Best order scores each prediction
    by the number of thresholds that it passes.
    """
    rows = np.flatnonzero(matched_truth >= 0)
    true = truth.iloc[matched_truth[rows]]
    position, true_position = (
        table[cars.POSITION].to_numpy(float) for table in (predictions.iloc[rows], true)
    )

    def changed(columns: list[str], values: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
        table = predictions.copy()
        table.iloc[rows, [table.columns.get_loc(column) for column in columns]] = values
        return truth, table

    cases: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {
        "as predicted": (truth, predictions),
        "true depth": changed(cars.POSITION, position * (true_position[:, 2:] / position[:, 2:])),
        "true centre": changed(cars.POSITION, true_position * (position[:, 2:] / true_position[:, 2:])),
        "true depth and centre": changed(cars.POSITION, true_position),
        "true rotation": changed(cars.ANGLES, true[cars.ANGLES].to_numpy(float)),
        "true pose": changed(cars.POSE, true[cars.POSE].to_numpy(float)),
        "no misses": (truth.iloc[np.sort(matched_truth[rows])], predictions),
        "no false cars": (truth, predictions.iloc[rows]),
        "best order": (truth, predictions.assign(score=metric.match(truth, predictions).mean(axis=1))),
    }
    scores = [metric.evaluate_folds(*tables, folds) for tables in cases.values()]
    table = pd.DataFrame({"oracle": list(cases), "mAP": scores})
    return table.assign(gain=table["mAP"] - table["mAP"][0])


def score_bins(truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """By bins of the score, .1 wide: mean score, share of hits at the loosest pair of thresholds and as the
    mean over all pairs, and number of cars."""
    hits = metric.match(truth, predictions)
    scores = predictions["score"].to_numpy(float)
    columns = {"hit_10%_50deg": hits[:, LOOSEST].astype(float), "hit_mean": hits.mean(axis=1)}
    bins = (scores * SCORE_BINS).astype(int).clip(0, SCORE_BINS - 1)
    grouped = pd.DataFrame({"score": scores, **columns}).groupby(bins)
    return grouped.mean().assign(cars=grouped.size()).rename_axis("bin").reset_index()


def depth_bins(truth: pd.DataFrame, predictions: pd.DataFrame, matched_truth: np.ndarray) -> pd.DataFrame:
    """By quintiles of the predicted σ of log z: mean σ, root mean square error of log z, share of errors
    within one and two σ (expected of a Laplace distribution: .757 and .941; normal: .683 and .954), number of
    cars.

    matched_truth: of `pair_with_truth`, which pairs no car with an error beyond a factor of 1.5. Empty where
    no σ is predicted.
    """
    rows = np.flatnonzero(matched_truth >= 0)
    sigma = predictions["depth_sigma"].to_numpy(float)[rows] if "depth_sigma" in predictions else np.array([])
    columns = ["bin", "sigma", "error", "within_1_sigma", "within_2_sigma", "cars"]
    if not np.isfinite(sigma).any():
        return pd.DataFrame(columns=columns)
    error = np.log(predictions["z"].to_numpy(float)[rows] / truth["z"].to_numpy(float)[matched_truth[rows]])
    table = pd.DataFrame({"sigma": sigma, "error": error**2})
    for times in (1, 2):
        table[f"within_{times}_sigma"] = (np.abs(error) < times * sigma).astype(float)
    bins = np.minimum((pd.Series(sigma).rank(method="first") - 1) * SIGMA_BINS // len(sigma), SIGMA_BINS - 1)
    grouped = table.groupby(bins.astype(int).to_numpy())
    result = grouped.mean().assign(cars=grouped.size()).rename_axis("bin").reset_index()
    return result.assign(error=np.sqrt(result["error"]))[columns]


def worst_images(truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per image, worst first: truths (number of true cars), found (of these, a car hit at six of ten
    pairs of thresholds counts .6), false (sum of scores of the predictions that hit nothing), and lost =
    truths − found + false."""
    hits = metric.match(truth, predictions)
    hit_share = pd.Series(hits.mean(axis=1)).groupby(predictions["ImageId"].to_numpy()).sum()
    false = predictions["score"].where(~hits[:, LOOSEST], 0.0).groupby(predictions["ImageId"]).sum()
    counts = truth.groupby("ImageId").size()
    table = pd.DataFrame({"truths": counts, "found": hit_share, "false": false}).fillna(0.0)
    table["lost"] = table["truths"] - table["found"] + table["false"]
    table = table.rename_axis("ImageId").reset_index()
    return table.sort_values(["lost", "ImageId"], ascending=[False, True], ignore_index=True)


def errors(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    folds: pd.DataFrame,
    intrinsics: np.ndarray,
    photo_size: tuple[int, int],
) -> dict[str, pd.DataFrame]:
    """All tables of one member by name: groups, thresholds, oracles, scores, depth, worst.

    truth, predictions: cars of the images of folds; intrinsics: 3×3 of the photo; photo_size: its width and
    height in pixels.
    """
    truth, predictions = truth.reset_index(drop=True), predictions.reset_index(drop=True)
    matched_truth = pair_with_truth(truth, predictions)
    return {
        "groups": by_group(truth, predictions, intrinsics, photo_size),
        "thresholds": by_threshold(truth, predictions, matched_truth),
        "oracles": oracles(truth, predictions, folds, matched_truth),
        "scores": score_bins(truth, predictions),
        "depth": depth_bins(truth, predictions, matched_truth),
        "worst": worst_images(truth, predictions),
    }
