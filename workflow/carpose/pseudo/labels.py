"""Pseudo labels of one round: for every fold, the fused test predictions of that fold's models alone.

In: labels, folds, the members' out-of-fold predictions (to fit fusion, calibration and cuts on the other
folds) and each fold's predictions of the test photos. Out: a table of cars with fold, score, weight,
depth_sigma and role, and a report.

A car counts as a hit at the metric's loosest thresholds (10 % of the distance, 50°): stricter ones would
leave weak models without any sure car.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from carpose.config.sections import Pseudo
from carpose.core import cars
from carpose.fuse.calibration import cut_for_precision, cut_for_probability
from carpose.fuse.combine import combine, finish, stack
from carpose.fuse.fit import fit
from carpose.fuse.fitted import Fit

from .report import by_distance

AT_LEAST = 0.05  # share of the cars that become positives at least, and that a precision is measured on
COLUMNS = ["ImageId", *cars.POSE, "score", "depth_sigma", "weight", "role", "fold"]


@dataclass(frozen=True)
class Cuts:
    """Probabilities from which on cars are positives, and ignored; reached: whether the precision was."""

    positive: float
    ignore: float
    reached: bool


def make_fold(
    labels: pd.DataFrame,
    folds: pd.DataFrame,
    fit_members: dict[str, pd.DataFrame],
    test_members: dict[str, pd.DataFrame],
    fold: int,
    settings: Pseudo,
) -> tuple[pd.DataFrame, dict]:
    """The pseudo labels of one fold and what to report of them.

    fit_members: out-of-fold predictions, of which this fold's images are not looked at; test_members:
    predictions of the unlabelled photos by each fold's models (column fold), of which only this fold's are.
    """
    others = folds[folds["fold"] != fold]
    fusion, oof = fit(labels, fit_members, others["ImageId"], others["fold"].to_numpy(), "given")
    probability, is_hit = oof["hit"].to_numpy(float), oof["is_hit"].to_numpy(bool)
    own = {name: table[table["fold"] == fold] for name, table in test_members.items() if name in fusion.used}
    fused = _fused(own, fusion).assign(fold=fold)
    cuts = _cuts(probability, is_hit, fused["score"], settings)
    fused = fused[fused["score"] >= cuts.ignore]
    sure = fused["score"] >= cuts.positive
    table = fused.assign(
        role=np.where(sure, "positive", "ignore"),
        weight=np.where(sure, fused["score"] if settings.mode == "soft" else 1.0, 0.0),
    )[COLUMNS].reset_index(drop=True)

    taken = probability >= cuts.positive
    report = {
        "cut_positive": cuts.positive,
        "cut_ignore": cuts.ignore,
        "precision_out_of_fold": float(is_hit[taken].mean()) if taken.any() else None,
        "target_reached": cuts.reached,
        "share_of_hits_kept": float(is_hit[taken].sum() / max(is_hit.sum(), 1)),
        "positive": int(sure.sum()),
        "ignore": int((~sure).sum()),
        "images": int(table["ImageId"].nunique()),
        "mean_agreement": float(fused.loc[sure, "agreement"].mean() / len(own)) if sure.any() else None,
        "positive_by_distance": by_distance(table[table["role"] == "positive"]),
    }
    return table, report


def _fused(members: dict[str, pd.DataFrame], fusion: Fit) -> pd.DataFrame:
    """The members' cars as one; score: the probability of a hit."""
    parts = [part for part in fusion.parts if fusion.parts[part].on and part != "threshold"]
    fused, features = combine(stack(members), fusion, list(members), parts)
    fused = finish(fused.assign(hit=fusion.hit.predict(features)), features, fusion, parts)
    return fused.assign(score=fused["hit"])


def _cuts(probability: np.ndarray, is_hit: np.ndarray, scores: pd.Series, settings: Pseudo) -> Cuts:
    """probability, is_hit: of cars whose truth is known; scores: of those to be labelled."""
    positive = cut_for_precision(probability, is_hit, settings.precision_positive, AT_LEAST)
    taken = probability >= positive
    reached = bool(taken.any() and is_hit[taken].mean() >= settings.precision_positive)
    if reached:  # sure as a set is not enough: each must be more likely right than wrong
        even = cut_for_probability(probability, is_hit, min(0.5, settings.precision_positive))
        positive = max(positive, even)
    elif len(scores):
        positive = float(np.quantile(scores, 1 - AT_LEAST, method="higher"))
    ignore = min(cut_for_probability(probability, is_hit, settings.precision_ignore), positive)
    return Cuts(positive, ignore, reached)
