"""The pseudo labels of one fold, and what is reported of them.

A car counts as a hit at the metric's loosest thresholds (10 % of the distance, 50°): with stricter ones weak
models would get no labels.
"""

import itertools

import numpy as np
import pandas as pd

from carpose import metric
from carpose.config.sections import Pseudo
from carpose.core import cars
from carpose.fuse.calibration import threshold_for_precision, threshold_for_probability
from carpose.fuse.combine import combine, postprocess, stack
from carpose.fuse.fitted import Fit
from carpose.fuse.members import pair_with_truth
from carpose.fuse.trial import fit
from carpose.metric.score import LOOSEST

BANDS = [0, 20, 40, 60, np.inf]  # metres of depth z, for the report
MIN_SHARE = 0.05  # of the cars: a threshold keeps at least so many, to measure its precision on
COLUMNS = ["ImageId", *cars.POSE, "score", "depth_sigma", "weight", "role", "fold"]


def make_fold(
    labels: pd.DataFrame,
    folds: pd.DataFrame,
    fit_members: dict[str, pd.DataFrame],
    test_members: dict[str, pd.DataFrame],
    fold: int,
    settings: Pseudo,
) -> tuple[pd.DataFrame, dict]:
    """The pseudo labels of one fold (columns COLUMNS) and their report, ready for JSON.

    labels: true cars; fit_members: out-of-fold predictions, of which those of this fold's photos are not
    used; test_members: predictions of the unlabelled photos (column fold: by which fold's network), of which
    only those by this fold's networks are used.
    """
    other_folds = folds[folds["fold"] != fold]
    fusion, oof = fit(labels, fit_members, other_folds, "given")
    probability, is_hit = oof["hit"].to_numpy(float), oof["is_hit"].to_numpy(bool)
    used = {name: table for name, table in test_members.items() if name in fusion.used}
    fold_members = {name: table[table["fold"] == fold] for name, table in used.items()}
    fused = _fuse(fold_members, fusion).assign(fold=fold)
    threshold_positive, threshold_ignore, reached = _thresholds(probability, is_hit, fused["score"], settings)
    fused = fused[fused["score"] >= threshold_ignore]
    positive = fused["score"] >= threshold_positive
    table = fused.assign(
        role=np.where(positive, "positive", "ignore"),
        weight=np.where(positive, fused["score"] if settings.mode == "soft" else 1.0, 0.0),
    )[COLUMNS].reset_index(drop=True)

    above = probability >= threshold_positive
    agreement = fused.loc[positive, "agreement"].mean() / len(fold_members)
    report = {
        "threshold_positive": threshold_positive,
        "threshold_ignore": threshold_ignore,
        "precision_out_of_fold": float(is_hit[above].mean()) if above.any() else None,
        "target_reached": reached,
        "share_of_hits_kept": float(is_hit[above].sum() / max(is_hit.sum(), 1)),
        "positive": int(positive.sum()),
        "ignore": int((~positive).sum()),
        "images": int(table["ImageId"].nunique()),
        "mean_agreement": float(agreement) if positive.any() else None,
        "positive_by_distance": by_distance(table[table["role"] == "positive"]),
    }
    return table, report


def _fuse(members: dict[str, pd.DataFrame], fusion: Fit) -> pd.DataFrame:
    """The members' cars fused; score: the probability of a hit."""
    parts = [part for part in fusion.enabled_parts() if part != "angle_range"]
    fused, features = combine(stack(members), fusion, list(members), parts)
    assert fusion.hit_model is not None  # of fit_scores
    fused = fused.assign(hit=fusion.hit_model.predict(features))
    fused = postprocess(fusion, fused, features, parts)
    return fused.assign(score=fused["hit"])


def _thresholds(
    probability: np.ndarray, is_hit: np.ndarray, scores: pd.Series, settings: Pseudo
) -> tuple[float, float, bool]:
    """Probabilities from which on cars are positives, and ignored; and whether the target precision is
    reached.

    probability, is_hit: of out-of-fold cars; scores: probabilities of the cars to be labelled.
    """
    positive = threshold_for_precision(probability, is_hit, settings.precision_positive, MIN_SHARE)
    above = probability >= positive
    reached = bool(above.any() and is_hit[above].mean() >= settings.precision_positive)
    if reached:  # the precision is a mean over cars; besides, no positive may be more likely wrong than right
        even = threshold_for_probability(probability, is_hit, min(0.5, settings.precision_positive))
        positive = max(positive, even)
    elif len(scores):
        positive = float(np.quantile(scores, 1 - MIN_SHARE, method="higher"))
    ignore = min(threshold_for_probability(probability, is_hit, settings.probability_ignore), positive)
    return positive, ignore, reached


def by_distance(table: pd.DataFrame) -> dict[str, float]:
    """Name of each band of depth z → share of the cars in it."""
    counts = np.histogram(table["z"], BANDS)[0]
    pairs = itertools.pairwise(BANDS)
    names = [f"{low}–{high:g} m" if np.isfinite(high) else f"over {low} m" for low, high in pairs]
    return dict(zip(names, (counts / max(len(table), 1)).round(4).tolist(), strict=True))


def compare_with_truth(truth: pd.DataFrame, table: pd.DataFrame) -> dict[str, float | None]:
    """Pseudo labels of one fold against the true cars of the same photos; only for the report.

    precision: share of the positives that hit a true car; recall: share of the true cars that positives hit;
    ignored_hits: share of the ignored cars that hit one; as_background: share of the true cars hit by
    neither, which training takes for background. None: of no cars.
    """
    hits = metric.match(truth, table)[:, LOOSEST]
    positive = (table["role"] == "positive").to_numpy(bool)

    def share(count: float, of: float) -> float | None:
        return float(count / of) if of else None

    return {
        "precision": share(hits[positive].sum(), positive.sum()),
        "recall": share(hits[positive].sum(), len(truth)),
        "ignored_hits": share(hits[~positive].sum(), (~positive).sum()),
        "as_background": share(len(truth) - hits.sum(), len(truth)),
    }


def drift(previous: pd.DataFrame, table: pd.DataFrame) -> dict[str, float | None]:
    """How the positives of one round (and fold) differ from those of the round before.

    kept: share of the previous positives that are in both rounds; new: share of the present ones that are
    not; median_shift: of those in both, distance between the two positions relative to the previous range.
    """
    if not len(previous) or not len(table):
        return {"kept": None, "new": None, "median_shift": None}
    now, before = pair_with_truth(previous, table.assign(member=0), 0.1, 0.1)
    position = table[cars.POSITION].to_numpy(float)[now]
    earlier = previous[cars.POSITION].to_numpy(float)[before]
    shift = np.linalg.norm(position - earlier, axis=1) / np.linalg.norm(earlier, axis=1)
    return {
        "kept": len(before) / len(previous),
        "new": 1 - len(now) / len(table),
        "median_shift": float(np.median(shift)) if len(shift) else None,
    }
