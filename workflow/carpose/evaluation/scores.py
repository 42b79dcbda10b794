"""Scores of members, out of fold and on test photos whose truth is known, and by bands of depth."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from carpose import metric
from carpose.metric import bootstrap
from carpose.metric.score import BAND_NAMES, LOOSEST, MIDDLE, band_of

SAMPLES = 200  # resamples of the photos; the relative error of the standard deviation is then 5 %


def score_test(
    truth: pd.DataFrame, predictions: pd.DataFrame, image_ids: Iterable[str], threshold: float, samples: int
) -> dict:
    """Scores of one member on test photos: keys and values of `_scores`, with prefix test.

    image_ids: all test photos, also those without a car; threshold: for the leaderboard; samples: resamples.
    """
    fold = pd.DataFrame({"ImageId": list(image_ids), "fold": 0})
    return _scores("test", truth, predictions, fold, threshold, samples)


def score_member(truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, samples: int) -> dict:
    """Out-of-fold scores of one member: means over the folds, each scored alone, then the mAP of each fold.

    folds: table of ImageId and fold; photos without a predicted car count too. For a table without
    `above_threshold`, `threshold` is the best one for the leaderboard, fitted on these same cars.
    """
    truth, predictions = (table[table["ImageId"].isin(folds["ImageId"])] for table in (truth, predictions))
    threshold = -np.inf
    if "above_threshold" not in predictions:
        threshold = metric.best_threshold(truth, predictions, "leaderboard")
    row = _scores("oof", truth, predictions, folds, threshold, samples)
    if "above_threshold" not in predictions:
        row["threshold"] = threshold
    for fold, images in folds.groupby("fold"):
        row[f"fold{fold}_mAP"] = metric.evaluate(truth, predictions, images["ImageId"])["mAP"]
    return row


def _scores(
    prefix: str,
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    folds: pd.DataFrame,
    threshold: float,
    samples: int,
) -> dict:
    """mAP of all cars, its standard deviation over `samples` resamples of each fold's photos, mAP in mode
    leaderboard, and the number of cars; keys start with `prefix`. The leaderboard's mAP is of the cars above
    the threshold: of the fusion (column above_threshold) or, without that column, `threshold`."""
    kept = (
        predictions["above_threshold"].astype(bool)
        if "above_threshold" in predictions
        else predictions["score"] >= threshold
    )
    values = {
        "mAP": metric.evaluate_folds(truth, predictions, folds),
        "sd": resampled_folds(truth, predictions, folds, samples).std(ddof=1),
        "mAP_leaderboard": metric.evaluate_folds(truth, predictions[kept], folds, "leaderboard"),
        "cars": int(predictions["ImageId"].isin(folds["ImageId"]).sum()),
    }
    return {f"{prefix}_{name}": value for name, value in values.items()}


def resampled_folds(
    truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, samples: int
) -> np.ndarray:
    """(samples,) mAP of resamples of each fold's photos, each fold scored by itself.

    The random seed is fixed, so that the resamples of two tables of predictions are paired.
    """
    rng, resampled, cars = np.random.default_rng(0), np.zeros(samples), 0
    for _, images in folds.groupby("fold")["ImageId"]:
        picks = bootstrap.draw_images(len(images), samples, rng)
        count = truth["ImageId"].isin(images).sum()
        resampled += count * bootstrap.resampled_scores(truth, predictions, images.tolist(), picks)
        cars += count
    return resampled / max(cars, 1)


def bands(truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Per band of true depth z (column metres): number of true cars, recall at the loosest and the middle
    pair of thresholds, and median relative depth error |z − z_true|/z_true of the cars that hit at the
    loosest.
    """
    band, assigned = band_of(truth), metric.assign(truth, predictions)

    def recall(level: int) -> list[float]:
        is_hit = np.isin(np.arange(len(truth)), assigned[:, level])
        return [is_hit[band == i].mean() if (band == i).any() else np.nan for i in range(len(BAND_NAMES))]

    matched = assigned[:, LOOSEST]
    hit = matched >= 0
    true_z = truth["z"].to_numpy(float)[matched[hit]]
    error = pd.Series(np.abs(predictions["z"].to_numpy(float)[hit] - true_z) / true_z)
    columns = {
        "metres": BAND_NAMES,
        "truths": np.bincount(band, minlength=len(BAND_NAMES)),
        "recall_10%_50deg": recall(LOOSEST),
        "recall_5%_25deg": recall(MIDDLE),
        "median_depth_error": error.groupby(band[matched[hit]]).median().reindex(range(len(BAND_NAMES))),
    }
    return pd.DataFrame(columns)


def evaluate(
    labels: pd.DataFrame,
    folds: pd.DataFrame,
    members: dict[str, pd.DataFrame],
    test_truth: pd.DataFrame | None = None,
    test_ids: Sequence[str] = (),
    test_members: dict[str, pd.DataFrame] | None = None,
    samples: int = SAMPLES,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of scores with one row per member, and the table of `bands` of each member.

    members, test_members: name → table of cars; test_ids: the test photos; samples: resamples of the photos.
    Rows are sorted by out-of-fold mAP, best first; members with test cars only come last, and all their cars
    count in mAP_leaderboard unless they have the column above_threshold.
    """
    rows: dict[str, dict] = {}
    band_tables = []

    def add(
        name: str,
        photos: str,
        truth: pd.DataFrame,
        predictions: pd.DataFrame,
        image_ids: Sequence[str],
        row: dict,
    ) -> None:
        rows.setdefault(name, {"name": name}).update(row)
        truth, predictions = (table[table["ImageId"].isin(image_ids)] for table in (truth, predictions))
        table = bands(truth, predictions)
        table.insert(0, "name", name)
        table.insert(1, "images", photos)
        band_tables.append(table)

    for name, predictions in members.items():
        row = score_member(labels, predictions, folds, samples)
        add(name, "out of fold", labels, predictions, folds["ImageId"], row)
    for name, predictions in (test_members or {}).items():
        threshold = rows.get(name, {}).get("threshold", -np.inf)
        row = score_test(test_truth, predictions, test_ids, threshold, samples)
        add(name, "test", test_truth, predictions, test_ids, row)
    table = pd.DataFrame(list(rows.values()))
    by = [column for column in ("oof_mAP", "test_mAP") if column in table]
    return table.sort_values(by, ascending=False, ignore_index=True), pd.concat(
        band_tables, ignore_index=True
    )
