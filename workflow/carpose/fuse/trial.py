"""Which parts of a fusion pay: each fitted on one half of the images and measured on the other.

In: true cars, members, images. Out: a Part per part of `fitted.PARTS`, one decided after the other.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars
from carpose.geometry import ground

from .calibration import fit_logistic
from .clustering import rays
from .combine import combine, finish, stack
from .fitted import GATE, Fit, Gate, Part
from .members import MAD, Members, fit_members, of_images, pair_with_truth, shrunk_scale

GATES = [replace(GATE, along=GATE.along * factor) for factor in (0.6, 1.6)]  # tried beside the usual one
MIN_RELATIVE_GAIN = 0.003  # in mAP, from which on a part is used


@dataclass(frozen=True)
class Half:
    """fit: what the other half says of members and ground; table: this half's cars, stacked; others: the
    other half's images."""

    fit: Fit
    table: pd.DataFrame
    others: np.ndarray


@dataclass(frozen=True)
class Scored:
    """fit: on the other half, scores included; fused: this half's cars by it; features: of theirs."""

    fit: Fit
    fused: pd.DataFrame
    features: np.ndarray


@dataclass(frozen=True)
class Trial:
    """truth: true cars of these images; half: (images,) 0 or 1; mode: the metric's confidences."""

    truth: pd.DataFrame
    image_ids: np.ndarray
    half: np.ndarray
    mode: str

    def value(self, tables: Iterable[pd.DataFrame]) -> float:
        """mAP of the cars of all these tables together."""
        table = cars.concat(list(tables))
        return metric.evaluate(self.truth, table, self.image_ids, self.mode == "equal")["mAP"]

    def geometry(self, members: Members, image_ids: np.ndarray) -> Fit:
        """What these images say of members and ground."""
        prior = ground.fit_prior(self.truth[self.truth["ImageId"].isin(image_ids)])
        fitted = fit_members(self.truth, members, image_ids)
        return Fit(mode=self.mode, members=fitted, ground=prior)

    def halves(self, members: Members) -> list[Half]:
        sides = [(self.image_ids[self.half != side], self.image_ids[self.half == side]) for side in (0, 1)]
        return [
            Half(self.geometry(members, others), stack(of_images(members, own)), others)
            for others, own in sides
        ]

    def fused(self, halves: list[Half], names: list[str], parts: Collection[str]) -> float:
        """mAP of both halves, each fused with these parts by what the other half says."""
        return self.value(combine(half.table, half.fit, names, parts)[0] for half in halves)

    def scored(self, members: Members, halves: list[Half], parts: Collection[str]) -> list[Scored]:
        """Each half fused with these parts, by what the other half says also of its scores."""
        result = []
        for half in halves:
            fit = fit_scores(self.truth, members, half.others, half.fit, parts)
            result.append(Scored(fit, *combine(half.table, fit, list(members), parts)))
        return result


def fit_scores(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], geometry: Fit, parts: Collection[str]
) -> Fit:
    """`geometry` with calibration, threshold and uncertainty of the cars that it fuses with these parts."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
    fused, features = combine(table, geometry, list(members), parts)
    hits = metric.match(truth, fused)
    # The metric pays for the mean over the ten thresholds; the loosest alone says "there is a car".
    score = fit_logistic(features, hits.mean(axis=1))
    kinds = {"plain": fused, "calibrated": fused.assign(score=score.predict(features))}
    sure = {name: metric.best_threshold(truth, table) for name, table in kinds.items()}
    pair, at = pair_with_truth(truth, fused.assign(member=0))
    error = np.abs(rays(fused)[1][pair] - rays(truth)[1][at])
    return replace(
        geometry,
        score=score,
        hit=fit_logistic(features, hits[:, 0].astype(float)),
        sure=sure,
        # With given confidences all cars are kept, their rank does the rest.
        threshold=sure if geometry.mode == "equal" else dict.fromkeys(kinds, 0.0),
        fused_sigma_scale=shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[pair], 1.0),
    )


def choose_weights(trial: Trial, members: Members) -> dict[str, Part]:
    """Whether bias and weights pay, each on top of those that do."""
    halves, names = trial.halves(members), list(members)
    parts, on = {}, []
    best = start = trial.fused(halves, names, on)
    for part in ("bias", "weights"):
        gain = trial.fused(halves, names, [*on, part]) - best
        parts[part] = _part(gain, start)
        if parts[part].on:
            on, best = [*on, part], best + gain
    return parts


def choose_members(trial: Trial, members: Members, parts: Collection[str]) -> tuple[Members, Part]:
    """The best k members, k where their calibrated fusion is best; in their own order."""
    alone = {name: trial.value([table]) for name, table in of_images(members, trial.image_ids).items()}
    ranked = sorted(members, key=lambda name: -alone[name])
    counts = [len(ranked)]
    while counts[-1] > 1:  # a third fewer each time: with many members one more or less is no matter
        counts.append(max(counts[-1] * 2 // 3, 1))

    def value(count):
        best = {name: members[name] for name in ranked[:count]}
        scored = trial.scored(best, trial.halves(best), parts)
        return trial.value(
            finish(one.fused, one.features, one.fit, ["calibration", "threshold"]) for one in scored
        )

    values = [value(count) for count in counts]
    part = _part(max(values) - values[0], values[0])
    used = ranked[: counts[int(np.argmax(values))]] if part.on else ranked
    return {name: table for name, table in members.items() if name in used}, part


def choose_gate(
    trial: Trial, halves: list[Half], names: list[str], parts: Collection[str]
) -> tuple[Gate, Part]:
    """The gate, and whether another than the usual one pays."""
    start = trial.fused(halves, names, parts)
    values = [trial.fused(with_gate(halves, gate), names, [*parts, "gate"]) for gate in GATES]
    part = _part(max(values) - start, start)
    return GATES[int(np.argmax(values))] if part.on else GATE, part


def with_gate(halves: list[Half], gate: Gate) -> list[Half]:
    return [replace(half, fit=replace(half.fit, gate=gate)) for half in halves]


def choose_ground(trial: Trial, halves: list[Half], names: list[str], parts: Collection[str]) -> Part:
    """Whether the photos' ground pays."""
    start = trial.fused(halves, names, parts)
    return _part(trial.fused(halves, names, [*parts, "ground"]) - start, start)


def choose_scores(trial: Trial, scored: list[Scored], parts: Collection[str]) -> dict[str, Part]:
    """Whether threshold and calibration pay.

    Where all confidences are equal, scores decide nothing but which cars are kept: so calibration is tried
    above the thresholds. With given confidences these are 0.
    """

    def value(*more):
        return trial.value(finish(one.fused, one.features, one.fit, [*parts, *more]) for one in scored)

    cut = value("threshold")
    calibration = _part(value("threshold", "calibration") - cut, cut)
    chosen = ["calibration"] if calibration.on else []
    start = value(*chosen)
    return {"threshold": _part(value("threshold", *chosen) - start, start), "calibration": calibration}


def _part(gain: float, start: float) -> Part:
    return Part(on=bool(gain > MIN_RELATIVE_GAIN * start), gain=gain)
