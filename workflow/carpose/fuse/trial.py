"""Fits the fusion on some images, and decides on halves of them which of its parts are used."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars
from carpose.geometry import ground
from carpose.metric.score import LOOSEST

from .angle_range import fit_angle_range
from .calibration import fit_logistic
from .clustering import rays
from .combine import combine, postprocess, stack
from .fitted import NEUTRAL, PARTS, Fit, Part
from .members import MAD, Members, fit_members, of_images, pair_with_truth, shrunk_scale

# The geometry fitted on the other half, the cars of this half (of `stack`), the ImageIds of the other half.
FittedHalf = tuple[Fit, pd.DataFrame, np.ndarray]
# The complete fit on the other half, the fused cars of this half, and their features, as `combine` has them.
FusedHalf = tuple[Fit, pd.DataFrame, np.ndarray]
MIN_RELATIVE_GAIN = 0.003  # a part is used if it raises the mAP by more than this fraction


def score(truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, mode: str) -> float:
    """mAP in this mode, as `metric.evaluate_folds` has it. In mode leaderboard only the cars above the
    threshold are scored, where the table has the column above_threshold."""
    if mode == "leaderboard" and "above_threshold" in predictions:
        predictions = predictions[predictions["above_threshold"].astype(bool)]
    return metric.evaluate_folds(truth, predictions, folds, mode)


@dataclass(frozen=True)
class Trial:
    """Two-fold cross-validation: fitted on one half of the images, measured on the other, and vice versa.

    truth: true cars of these images; halves: table of ImageId and fold, 0 or 1; mode: of the metric.
    """

    truth: pd.DataFrame
    halves: pd.DataFrame
    mode: str

    def score(self, tables: Iterable[pd.DataFrame], mode: str | None = None) -> float:
        """mAP averaged over the two halves, each scored alone. tables: one per half, or one of both; mode: by
        default that of the trial."""
        return score(self.truth, cars.concat(list(tables)), self.halves, mode or self.mode)

    def fit_geometry(self, members: Members, image_ids: Iterable[str]) -> Fit:
        """A fit of the members' errors and of the ground on these images, without models of scores."""
        prior = ground.fit_prior(self.truth[self.truth["ImageId"].isin(image_ids)])
        fitted = fit_members(self.truth, members, image_ids)
        return Fit(mode=self.mode, members=fitted, ground=prior)

    def fit_halves(self, members: Members) -> list[FittedHalf]:
        """The FittedHalf of each half: without models of scores."""
        result = []
        for side in (0, 1):
            half_ids, other_ids = (self.halves["ImageId"][self.halves["fold"] == s] for s in (side, 1 - side))
            geometry_fit = self.fit_geometry(members, other_ids)
            result.append((geometry_fit, stack(of_images(members, half_ids)), other_ids))
        return result

    def score_fused(self, fitted_halves: list[FittedHalf], names: list[str], parts: Collection[str]) -> float:
        """mAP of both halves (of `fit_halves`), each fused with these parts of the fit on the other half."""
        return self.score(combine(table, fit, names, parts)[0] for fit, table, _ in fitted_halves)

    def fuse_halves(
        self, members: Members, fitted_halves: list[FittedHalf], parts: Collection[str]
    ) -> list[FusedHalf]:
        """The FusedHalf of each half, which is what `postprocess` takes."""
        result = []
        for geometry_fit, table, other_ids in fitted_halves:
            fit = fit_scores(self.truth, members, other_ids, geometry_fit, parts)
            result.append((fit, *combine(table, fit, list(members), parts)))
        return result


def fit_scores(
    labels: pd.DataFrame,
    members: Members,
    image_ids: Iterable[str],
    geometry_fit: Fit,
    parts: Collection[str],
) -> Fit:
    """`geometry_fit` with what is fitted to the cars that it fuses with these parts: models of scores,
    thresholds, range of angles and scale of depth_sigma."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
    fused, features = combine(table, geometry_fit, list(members), parts)
    rows, true_rows = pair_with_truth(truth, fused.assign(member=0))
    angle_range = fit_angle_range(fused, truth.iloc[true_rows], rows)
    if "angle_range" in parts:
        fused = angle_range.apply(fused)
    hits = metric.match(truth, fused, geometry_fit.mode)
    # mAP is the mean over ten pairs of thresholds, so the score predicts the mean over them; `hit_model`
    # predicts the loosest pair alone, that is, whether there is a car.
    score_model = fit_logistic(features, hits.mean(axis=1))
    by_score = {"plain": fused, "calibrated": fused.assign(score=score_model.predict(features))}
    thresholds = {
        name: metric.best_threshold(truth, table, "leaderboard") for name, table in by_score.items()
    }
    error = np.abs(rays(fused)[1][rows] - rays(truth)[1][true_rows])
    return replace(
        geometry_fit,
        score_model=score_model,
        hit_model=fit_logistic(features, hits[:, LOOSEST].astype(float)),
        thresholds=thresholds,
        angle_range=angle_range,
        fused_sigma_scale=shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[rows], 1.0),
    )


def choose_members(trial: Trial, members: Members) -> tuple[Members, list[FittedHalf], Part]:
    """The k best members (in the order of `members`), their FittedHalf of each half, and the gain over
    using all members.

    Several k are tried, each with its own fit. The k with the highest calibrated mAP is used, or all members
    where it gains too little over them.
    """
    alone = {name: trial.score([table], "given") for name, table in members.items()}
    ranked = sorted(members, key=lambda name: -alone[name])
    counts = [len(ranked)]
    while counts[-1] > 1:  # a third fewer each time: among many members one hardly matters
        counts.append(max(counts[-1] * 2 // 3, 1))

    candidates = []
    for count in counts:
        best = {name: table for name, table in members.items() if name in ranked[:count]}
        fitted_halves = trial.fit_halves(best)
        fused = trial.fuse_halves(best, fitted_halves, ["bias", "member_weights"])
        mean_ap = trial.score(postprocess(*half, ["calibration"]) for half in fused)
        candidates.append((mean_ap, best, fitted_halves))
    mean_ap, best, fitted_halves = max(candidates, key=lambda candidate: candidate[0])
    part = _part(mean_ap - candidates[0][0], candidates[0][0])
    return (best, fitted_halves, part) if part.on else (*candidates[0][1:], part)


def choose_parts(
    trial: Trial, fitted_halves: list[FittedHalf], names: list[str], candidates: list[str]
) -> dict[str, Part]:
    """Which of the candidate parts are used, each on top of the used ones before it."""
    parts: dict[str, Part] = {}
    used: list[str] = []
    start = best = trial.score_fused(fitted_halves, names, [])
    for part in candidates:
        gain = trial.score_fused(fitted_halves, names, [*used, part]) - best
        parts[part] = _part(gain, start)
        if parts[part].on:
            used, best = [*used, part], best + gain
    return parts


def choose_calibration(trial: Trial, fused_halves: list[FusedHalf], parts: Collection[str]) -> Part:
    """Whether calibrated scores are used. fused_halves: of `Trial.fuse_halves`."""
    plain, calibrated = (
        trial.score(postprocess(*half, used) for half in fused_halves)
        for used in (parts, [*parts, "calibration"])
    )
    return _part(calibrated - plain, plain)


def choose_angle_range(trial: Trial, fused_halves: list[FusedHalf], parts: Collection[str]) -> Part:
    """Whether the range of angles is changed, by the leaderboard's metric in any mode, since no other metric
    depends on it."""
    scores = []
    for used in (parts, [*parts, "angle_range"]):
        scores.append(trial.score((postprocess(*half, used) for half in fused_halves), "leaderboard"))
    return _part(scores[1] - scores[0], scores[0])


def _part(gain: float, start: float) -> Part:
    """gain: of mAP; start: the mAP that it is relative to."""
    return Part(on=bool(gain > MIN_RELATIVE_GAIN * start), gain=gain)


def fit(labels: pd.DataFrame, members: Members, folds: pd.DataFrame, mode: str) -> tuple[Fit, pd.DataFrame]:
    """Fit everything on some images.

    labels: true cars; members: predictions by name; folds: the images to use, as in folds.parquet; mode: of
    the metric, given or leaderboard.

    Which parts are used is decided by two-fold cross-validation (`Trial`), one part after the other. Returns
    what `combine.fuse` takes as `fit`, and the cars of all images, each half fused by the fit on the other
    half, with the columns hit (probability of a match at the loosest thresholds) and is_hit (whether it
    matched).
    """
    image_ids = folds["ImageId"].to_numpy(object)
    truth = labels[labels["ImageId"].isin(image_ids)]
    members = of_images(members, image_ids)
    halves = pd.DataFrame({"ImageId": image_ids, "fold": _halves(folds)})
    trial = Trial(truth, halves, mode)
    used, fitted_halves, members_part = choose_members(trial, members)
    geometric_parts = choose_parts(trial, fitted_halves, list(used), ["bias", "member_weights", "ground"])
    parts = {"members": members_part, **geometric_parts}
    enabled = _enabled(parts)
    fused_halves = trial.fuse_halves(used, fitted_halves, enabled)
    parts["calibration"] = choose_calibration(trial, fused_halves, enabled)
    parts["angle_range"] = choose_angle_range(trial, fused_halves, _enabled(parts))

    # These cars keep their angles within −π … π: they are for pseudo labels, not for the leaderboard.
    kept = [part for part in _enabled(parts) if part != "angle_range"]
    tables = []
    for half_fit, fused, features in fused_halves:
        assert half_fit.hit_model is not None  # of fit_scores
        fused = fused.assign(hit=half_fit.hit_model.predict(features))
        tables.append(postprocess(half_fit, fused, features, kept))
    oof = cars.concat(tables)
    geometry_fit = trial.fit_geometry(used, image_ids)
    if len(used) < len(members):  # the fit has all members, so that `fuse` accepts the unused ones as well
        all_members = fit_members(truth, members, image_ids) | geometry_fit.members
        geometry_fit = replace(geometry_fit, members=all_members)
    geometry_fit = replace(geometry_fit, used=list(used))
    result = fit_scores(truth, used, image_ids, geometry_fit, _enabled(parts))
    return replace(result, parts=parts), oof.assign(is_hit=metric.match(truth, oof)[:, LOOSEST])


def _enabled(parts: dict[str, Part]) -> list[str]:
    return [part for part in PARTS if part in parts and parts[part].on]


def _halves(folds: pd.DataFrame) -> np.ndarray:
    """(N,) 0 or 1 for each image. Splits by fold parity; with one fold by groups of near-duplicates, without
    groups by image."""
    by_name = folds["group"] if "group" in folds else folds["ImageId"]
    together = folds["fold"] if folds["fold"].nunique() > 1 else by_name
    return np.unique(together, return_inverse=True)[1] % 2


def fit_single_member(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], name: str, mode: str
) -> Fit:
    """A fit that uses one member alone and leaves its cars unchanged."""
    prior = ground.fit_prior(labels[labels["ImageId"].isin(image_ids)])
    geometry_fit = Fit(mode=mode, members=dict.fromkeys(members, NEUTRAL), ground=prior, used=[name])
    result = fit_scores(labels, {name: members[name]}, image_ids, geometry_fit, [])
    return replace(result, parts={part: Part(on=part == "members", gain=0.0) for part in PARTS})
