"""Fit what the fusion needs on out-of-fold predictions: which members, and the parts of carpose.fuse.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the honest gain of each
part, and the fused out-of-fold cars, each fold fused by what was fitted on the other folds.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.config.options import add_options, from_options
from carpose.config.sections import Fuse
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.core.options import NAMED, program
from carpose.geometry import ground
from carpose.kaggle.read import check_coverage, check_same_photos, read_members, tables_of
from carpose.metric.score import LOOSEST

from .calibration import fit_logistic
from .clustering import rays
from .combine import combine, finish, fuse, stack
from .fitted import PARTS, Fit, Part
from .members import MAD, Members, fit_members, of_images, pair_with_truth, shrunk_scale

MIN_RELATIVE_GAIN = 0.003  # in mAP, from which on a part is used


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

    def halves(self, members: Members) -> list[tuple[Fit, pd.DataFrame, np.ndarray]]:
        """Of each half: what the other says of members and ground, its own cars, the other's images."""
        result = []
        for side in (0, 1):
            half_ids, other_ids = self.image_ids[self.half == side], self.image_ids[self.half != side]
            geometry = self.geometry(members, other_ids)
            result.append((geometry, stack(of_images(members, half_ids)), other_ids))
        return result

    def fused(self, halves: list, names: list[str], parts: Collection[str]) -> float:
        """mAP of both halves, each fused with these parts by what the other half says."""
        return self.value(combine(table, fit, names, parts)[0] for fit, table, _ in halves)

    def scored(
        self, members: Members, halves: list, parts: Collection[str]
    ) -> list[tuple[Fit, pd.DataFrame, np.ndarray]]:
        """Of each half: what the other says, also of scores; its cars, fused by that with these parts; their
        features. `finish` makes scores of it."""
        result = []
        for geometry, table, other_ids in halves:
            fit = fit_scores(self.truth, members, other_ids, geometry, parts)
            result.append((fit, *combine(table, fit, list(members), parts)))
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
        hit=fit_logistic(features, hits[:, LOOSEST].astype(float)),
        sure=sure,
        # With given confidences all cars are kept, their rank does the rest.
        threshold=sure if geometry.mode == "equal" else dict.fromkeys(kinds, 0.0),
        fused_sigma_scale=shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[pair], 1.0),
    )


def choose_parts(
    trial: Trial, halves: list, names: list[str], on: list[str], tried: list[str]
) -> dict[str, Part]:
    """Whether these parts pay, each on top of those that are on and of those before it that do."""
    parts, best = {}, trial.fused(halves, names, on)
    start = best
    for part in tried:
        gain = trial.fused(halves, names, [*on, part]) - best
        parts[part] = _part(gain, start)
        if parts[part].on:
            on, best = [*on, part], best + gain
    return parts


def choose_members(
    trial: Trial, members: Members, halves: list, parts: Collection[str]
) -> tuple[Members, Part]:
    """The best k members, k where their calibrated fusion is best; in their own order. halves: of all."""
    alone = {name: trial.value([table]) for name, table in of_images(members, trial.image_ids).items()}
    ranked = sorted(members, key=lambda name: -alone[name])
    counts = [len(ranked)]
    while counts[-1] > 1:  # a third fewer each time: with many members one more or less is no matter
        counts.append(max(counts[-1] * 2 // 3, 1))

    def value(count):
        best = {name: table for name, table in members.items() if name in ranked[:count]}
        scored = trial.scored(best, halves if len(best) == len(members) else trial.halves(best), parts)
        return trial.value(finish(*half, ["calibration", "threshold"]) for half in scored)

    values = [value(count) for count in counts]
    part = _part(max(values) - values[0], values[0])
    used = ranked[: counts[int(np.argmax(values))]] if part.on else ranked
    return {name: table for name, table in members.items() if name in used}, part


def choose_scores(trial: Trial, scored: list, parts: Collection[str]) -> dict[str, Part]:
    """Whether threshold and calibration pay.

    Where all confidences are equal, scores decide nothing but which cars are kept: so calibration is tried
    above the thresholds. With given confidences these are 0.
    """

    def value(*added):
        return trial.value(finish(*half, [*parts, *added]) for half in scored)

    cut = value("threshold")
    calibration = _part(value("threshold", "calibration") - cut, cut)
    chosen = ["calibration"] if calibration.on else []
    start = value(*chosen)
    return {"threshold": _part(value("threshold", *chosen) - start, start), "calibration": calibration}


def _part(gain: float, start: float) -> Part:
    return Part(on=bool(gain > MIN_RELATIVE_GAIN * start), gain=gain)


def fit(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], groups: np.ndarray, mode: str
) -> tuple[Fit, pd.DataFrame]:
    """Fit everything on some images.

    labels: true cars; members: predictions by name; image_ids: the images to use; groups: one int per
    image, which must stay together (their fold); mode: "given" or "equal" confidences.

    Which parts are used is decided on halves: fitted on one, measured on the other, one part after the
    other. Returns what `combine.fuse` takes as `fit`, and the cars of all images, each half fused by the fit
    on the other half, with their probability `hit` of a hit at the loosest thresholds and whether they did
    hit (`is_hit`).
    """
    image_ids = np.asarray(list(image_ids), object)
    truth = labels[labels["ImageId"].isin(image_ids)]
    trial = Trial(truth, image_ids, _halves(image_ids, np.asarray(groups)), mode)
    geometry, halves = trial.geometry(members, image_ids), trial.halves(members)
    parts = choose_parts(trial, halves, list(members), [], ["bias", "weights"])
    on = [part for part, chosen in parts.items() if chosen.on]
    used, parts["members"] = choose_members(trial, members, halves, on)
    if len(used) < len(members):
        halves = trial.halves(used)
        geometry = replace(geometry, members=geometry.members | fit_members(truth, used, image_ids))
    parts |= choose_parts(trial, halves, list(used), on, ["ground"])
    on = [part for part, chosen in parts.items() if chosen.on]
    scored = trial.scored(used, halves, on)
    parts |= choose_scores(trial, scored, on)

    kept = [part for part, chosen in parts.items() if chosen.on and part != "threshold"]
    tables = [finish(half, fused.assign(hit=half.hit.predict(x)), x, kept) for half, fused, x in scored]
    oof = cars.concat(tables)
    geometry = replace(geometry, used=list(used))
    result = fit_scores(truth, used, image_ids, geometry, on)
    return replace(result, parts=parts), oof.assign(is_hit=metric.match(truth, oof)[:, LOOSEST])


def _halves(image_ids: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """0 or 1 for each image: whole folds where there are several, else every other image by name."""
    ranks = np.unique(groups, return_inverse=True)[1]
    if ranks.max(initial=0) > 0:
        return ranks % 2
    return np.argsort(np.argsort(image_ids.astype(str))) % 2


def fit_nested(
    labels: pd.DataFrame, folds: pd.DataFrame, members: Members, mode: str
) -> tuple[Fit, pd.DataFrame]:
    """The fit on all folds, and the fused cars of each fold by the fit on the others.

    Returns the fit and the fused table with `fold`. Its `mAP` are honest: `fused` comes from fits that never
    saw the fold, `equal_weights` and the members need none. Of the parts, `gain` is the one by which the
    part was chosen, fitted on one half of the images and measured on the other, and `nested_gain` the honest
    one: what the part adds on top of those before it, chosen and fitted on the other folds. The nested gains
    sum to `fused` − `equal_weights`.
    """
    image_ids, groups = folds["ImageId"].to_numpy(object), folds["fold"].to_numpy()
    final, _ = fit(labels, members, image_ids, groups, mode)
    ablation = [[] for _ in range(len(PARTS) + 1)]  # fused with the first 0, 1 … parts, those that paid
    for fold in np.unique(groups):
        inside = groups == fold
        if inside.all():
            raise UserError("the folds table has one fold only; at least two are needed to fit on the others")
        learnt, _ = fit(labels, members, image_ids[~inside], groups[~inside], mode)
        fold_members = of_images(members, image_ids[inside])
        enabled = learnt.enabled_parts()
        for step, tables in enumerate(ablation):
            on = [part for part in PARTS[:step] if part in enabled]
            tables.append(fuse(fold_members, learnt, on).assign(fold=int(fold)))
    ablation = [cars.concat(tables) for tables in ablation]

    def value(table):
        return metric.evaluate(labels, table, image_ids, mode == "equal")["mAP"]

    values = [value(table) for table in ablation]
    gains = dict(zip(PARTS, np.diff(values), strict=True))
    parts = {name: replace(part, nested_gain=float(gains[name])) for name, part in final.parts.items()}
    alone = {name: value(table) for name, table in members.items()}
    scores = {"fused": values[-1], "equal_weights": values[0], "members": alone}
    return replace(final, parts=parts, mAP=scores), ablation[-1]


def _report(final: Fit) -> Iterator[str]:
    """Lines for the log."""
    yield f"mAP ({final.mode} confidences), out of fold:"
    for name, single in sorted(final.mAP["members"].items(), key=lambda item: -item[1]):
        yield f"  {single:.4f}  {name}"
    yield f"  {final.mAP['equal_weights']:.4f}  fused, equal weights"
    yield f"  {final.mAP['fused']:.4f}  fused, fitted on the other folds"
    yield f"used: {', '.join(final.used)}"
    for name, part in final.parts.items():
        state = "on" if part.on else "off: does not pay"
        yield f"  {name:12s} {part.nested_gain:+.4f} nested, {part.gain:+.4f} when chosen  {state}"


def main() -> None:
    parser = program("carpose.fuse.fit", __doc__)
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument("--folds", required=True, help="folds.parquet: which images are used")
    parser.add_argument("--members", required=True, **NAMED, help="out-of-fold predictions (oof.parquet)")
    add_options(parser, Fuse, only=("mode",))
    parser.add_argument("--output", required=True, help="JSON for carpose.fuse --fit")
    parser.add_argument("--fused-output", required=True, help="Parquet: fused, each fold by the others' fit")
    args = parser.parse_args()
    members, folds = read_members(args.members), parquet.read_folds(args.folds)
    labels = cars.read(args.labels)
    check_coverage(members, folds["ImageId"])
    check_same_photos(args.labels, labels, folds["ImageId"])
    mode = from_options(args, Fuse, only=("mode",)).mode
    final, fused = fit_nested(labels, folds, tables_of(members), mode)
    cars.write(args.fused_output, fused, image_ids=folds["ImageId"])
    write_text(args.output, final.to_json())
    print("\n".join(_report(final)))


if __name__ == "__main__":
    run_main(main)
