"""What the fusion learns of some images, and which of its parts pay, tried on halves of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars
from carpose.geometry import ground
from carpose.metric.score import LOOSEST

from .calibration import fit_logistic
from .clustering import rays
from .combine import combine, finish, stack
from .fitted import NEUTRAL, PARTS, Fit, Part
from .members import MAD, Members, fit_members, of_images, pair_with_truth, shrunk_scale
from .writing import fit_writing

MIN_RELATIVE_GAIN = 0.003  # in mAP, from which on a part is used


def score(truth: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, mode: str) -> float:
    """mAP in this mode, each fold by itself. In the mode leaderboard only cars above the threshold count,
    where the table has that column."""
    if mode == "leaderboard" and "above_threshold" in predictions:
        predictions = predictions[predictions["above_threshold"].astype(bool)]
    return metric.evaluate_folds(truth, predictions, folds, mode)


@dataclass(frozen=True)
class Trial:
    """What is tried by fitting on one half of the images and measuring on the other.

    truth: true cars of these images; halves: table of ImageId and fold, 0 or 1; mode: of the metric.
    """

    truth: pd.DataFrame
    halves: pd.DataFrame
    mode: str

    def value(self, tables: Iterable[pd.DataFrame], mode: str | None = None) -> float:
        """mAP of the cars of all these tables together, each half by itself."""
        return score(self.truth, cars.concat(list(tables)), self.halves, mode or self.mode)

    def geometry(self, members: Members, image_ids: Iterable[str]) -> Fit:
        """What these images say of members and ground."""
        prior = ground.fit_prior(self.truth[self.truth["ImageId"].isin(image_ids)])
        fitted = fit_members(self.truth, members, image_ids)
        return Fit(mode=self.mode, members=fitted, ground=prior)

    def split(self, members: Members) -> list[tuple[Fit, pd.DataFrame, np.ndarray]]:
        """Of each half: what the other says of members and ground, its own cars, the other's images."""
        result = []
        for side in (0, 1):
            half_ids, other_ids = (self.halves["ImageId"][self.halves["fold"] == s] for s in (side, 1 - side))
            geometry = self.geometry(members, other_ids)
            result.append((geometry, stack(of_images(members, half_ids)), other_ids))
        return result

    def fused(self, split: list, names: list[str], parts: Collection[str]) -> float:
        """mAP of both halves, each fused with these parts by what the other half says."""
        return self.value(combine(table, fit, names, parts)[0] for fit, table, _ in split)

    def scored(
        self, members: Members, split: list, parts: Collection[str]
    ) -> list[tuple[Fit, pd.DataFrame, np.ndarray]]:
        """Of each half: what the other says, also of scores; its cars, fused by that with these parts; their
        features. `finish` makes scores of it."""
        result = []
        for geometry, table, other_ids in split:
            fit = fit_scores(self.truth, members, other_ids, geometry, parts)
            result.append((fit, *combine(table, fit, list(members), parts)))
        return result


def fit_scores(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], geometry: Fit, parts: Collection[str]
) -> Fit:
    """`geometry` with calibration, threshold, uncertainty and writing of the cars that it fuses with these
    parts."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
    fused, features = combine(table, geometry, list(members), parts)
    pair, at = pair_with_truth(truth, fused.assign(member=0))
    writing = fit_writing(fused, truth.iloc[at], pair)
    if "writing" in parts:
        fused = writing.apply(fused)
    hits = metric.match(truth, fused, geometry.mode)
    # The metric pays for the mean over the ten thresholds; the loosest alone says "there is a car".
    score = fit_logistic(features, hits.mean(axis=1))
    kinds = {"plain": fused, "calibrated": fused.assign(score=score.predict(features))}
    thresholds = {name: metric.best_threshold(truth, table, "leaderboard") for name, table in kinds.items()}
    error = np.abs(rays(fused)[1][pair] - rays(truth)[1][at])
    return replace(
        geometry,
        score=score,
        hit=fit_logistic(features, hits[:, LOOSEST].astype(float)),
        thresholds=thresholds,
        writing=writing,
        fused_sigma_scale=shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[pair], 1.0),
    )


def choose_members(trial: Trial, members: Members) -> tuple[Members, list, Part]:
    """The best k members, in their own order, and the split of them: k where their calibrated fusion is best,
    each k with what was fitted for it."""
    alone = {name: trial.value([table], "given") for name, table in members.items()}
    ranked = sorted(members, key=lambda name: -alone[name])
    counts = [len(ranked)]
    while counts[-1] > 1:  # a third fewer each time: with many members one more or less is no matter
        counts.append(max(counts[-1] * 2 // 3, 1))

    trials = []
    for count in counts:
        best = {name: table for name, table in members.items() if name in ranked[:count]}
        split = trial.split(best)
        scored = trial.scored(best, split, ["bias", "weights"])
        trials.append((trial.value(finish(*half, ["calibration"]) for half in scored), best, split))
    value, best, split = max(trials, key=lambda entry: entry[0])
    part = _part(value - trials[0][0], trials[0][0])
    return (best, split, part) if part.on else (*trials[0][1:], part)


def choose_parts(trial: Trial, split: list, names: list[str], tried: list[str]) -> dict[str, Part]:
    """Whether these parts pay, each on top of those before it that do."""
    parts, on, best = {}, [], trial.fused(split, names, [])
    start = best
    for part in tried:
        gain = trial.fused(split, names, [*on, part]) - best
        parts[part] = _part(gain, start)
        if parts[part].on:
            on, best = [*on, part], best + gain
    return parts


def choose_calibration(trial: Trial, scored: list, parts: Collection[str]) -> Part:
    """Whether calibrated scores pay."""
    plain, calibrated = (
        trial.value(finish(*half, on) for half in scored) for on in (parts, [*parts, "calibration"])
    )
    return _part(calibrated - plain, plain)


def choose_writing(trial: Trial, scored: list, parts: Collection[str]) -> Part:
    """Whether the writing pays, by the leaderboard's metric of the cars that are kept for it, in any mode."""
    values = []
    for on in (parts, [*parts, "writing"]):
        values.append(trial.value((finish(*half, on) for half in scored), "leaderboard"))
    return _part(values[1] - values[0], values[0])


def _part(gain: float, start: float) -> Part:
    return Part(on=bool(gain > MIN_RELATIVE_GAIN * start), gain=gain)


def fit(labels: pd.DataFrame, members: Members, folds: pd.DataFrame, mode: str) -> tuple[Fit, pd.DataFrame]:
    """Fit everything on some images.

    labels: true cars; members: predictions by name; folds: the images to use, as in folds.parquet; mode: of
    the metric, given or leaderboard.

    Which parts are used is decided on halves: fitted on one, measured on the other, one part after the
    other, each with what was fitted for it. Returns what `combine.fuse` takes as `fit`, and the cars of all
    images, each half fused by the fit on the other half, with their probability `hit` of a hit at the loosest
    thresholds and whether they did hit (`is_hit`).
    """
    image_ids = folds["ImageId"].to_numpy(object)
    truth = labels[labels["ImageId"].isin(image_ids)]
    members = of_images(members, image_ids)
    halves = pd.DataFrame({"ImageId": image_ids, "fold": _halves(folds)})
    trial = Trial(truth, halves, mode)
    used, split, chosen = choose_members(trial, members)
    parts = {"members": chosen, **choose_parts(trial, split, list(used), ["bias", "weights", "ground"])}
    geometric = _enabled(parts)
    scored = trial.scored(used, split, geometric)
    parts["calibration"] = choose_calibration(trial, scored, geometric)
    parts["writing"] = choose_writing(trial, scored, _enabled(parts))

    kept = [part for part in _enabled(parts) if part != "writing"]
    tables = [finish(half, fused.assign(hit=half.hit.predict(x)), x, kept) for half, fused, x in scored]
    oof = cars.concat(tables)
    geometry = trial.geometry(used, image_ids)
    if len(used) < len(members):  # a fit knows all that it may be given
        geometry = replace(geometry, members=fit_members(truth, members, image_ids) | geometry.members)
    geometry = replace(geometry, used=list(used))
    result = fit_scores(truth, used, image_ids, geometry, _enabled(parts))
    return replace(result, parts=parts), oof.assign(is_hit=metric.match(truth, oof)[:, LOOSEST])


def _enabled(parts: dict[str, Part]) -> list[str]:
    return [part for part in PARTS if part in parts and parts[part].on]


def _halves(folds: pd.DataFrame) -> np.ndarray:
    """0 or 1 for each image: whole folds where there are several, else every other group of near-duplicates
    by name; of a table without groups every other image."""
    by_name = folds["group"] if "group" in folds else folds["ImageId"]
    together = folds["fold"] if folds["fold"].nunique() > 1 else by_name
    return np.unique(together, return_inverse=True)[1] % 2


def fit_as_it_is(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], name: str, mode: str
) -> Fit:
    """A fit that uses the cars of one member as they are."""
    prior = ground.fit_prior(labels[labels["ImageId"].isin(image_ids)])
    geometry = Fit(mode=mode, members=dict.fromkeys(members, NEUTRAL), ground=prior, used=[name])
    result = fit_scores(labels, {name: members[name]}, image_ids, geometry, [])
    return replace(result, parts={part: Part(on=part == "members", gain=0.0) for part in PARTS})
