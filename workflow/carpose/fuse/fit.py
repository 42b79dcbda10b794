"""Fit the fusion on out-of-fold predictions: which members are fused, and the parts of the fit.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the nested gain of each
part, and the fused out-of-fold cars, each fold fused by the fit on the other folds.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.config.options import add_options, from_options
from carpose.config.sections import Fuse
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.core.options import NAME_PATHS, program
from carpose.kaggle.read import check_out_of_fold, check_same_photos, read_members, tables_of

from .combine import fuse
from .fitted import DESCRIPTIONS, PARTS, Fit
from .members import Members, of_images
from .trial import fit, fit_single_member, score


def fit_nested(
    labels: pd.DataFrame, folds: pd.DataFrame, members: Members, mode: str
) -> tuple[Fit, pd.DataFrame]:
    """The fit on all folds, and the fused cars of each fold by the fit on the others.

    Returns the fit and the fused table with `fold`. The fit's `mAP` holds scores of `trial.score` in this
    mode. `fused`: mAP, each fold by a fit on the others; `best_fitted`: the same with the best member only.
    `members` (each alone, unchanged) and `equal_weights` (all fused, nothing fitted) need no fit; only the
    members' thresholds in mode leaderboard are fitted on the same cars. `submissions` has the mAP of all
    fused cars and of those above the threshold, in either mode.

    Of each part, `gain` is the difference in mAP by which it was chosen, and `nested_gain` the unbiased one:
    what the part adds to those before it, chosen and fitted on the other folds. The nested gains sum to
    `fused` − `equal_weights`, except that of angle_range, which is of the leaderboard's metric in any mode.

    Where the fused cars score less than the best member alone, the returned fit uses that member only,
    unchanged.
    Raises UserError where there is a single fold.
    """

    def mean_ap(table: pd.DataFrame, metric_mode: str = mode) -> float:
        return score(labels, table, folds, metric_mode)

    def fitter(members: Members) -> Callable[[pd.DataFrame], Fit]:
        return lambda fitted_folds: fit(labels, members, fitted_folds, mode)[0]

    final, ablation = fitter(members)(folds), _fuse_by_others(folds, members, fitter(members))
    alone = {name: mean_ap(_with_best_threshold(labels, table, folds)) for name, table in members.items()}
    best = max(alone, key=alone.__getitem__)
    best_alone = {best: members[best]}
    best_fitted = mean_ap(_fuse_by_others(folds, best_alone, fitter(best_alone))[-1])
    if mean_ap(ablation[-1]) < alone[best]:

        def fit_best(fitted_folds: pd.DataFrame) -> Fit:
            return fit_single_member(labels, members, fitted_folds["ImageId"], best, mode)

        final, ablation = fit_best(folds), _fuse_by_others(folds, members, fit_best)
    scores = [mean_ap(table) for table in ablation]
    gains: dict[str, float] = dict(zip(PARTS, np.diff(scores), strict=True))
    gains["angle_range"] = mean_ap(ablation[-1], "leaderboard") - mean_ap(ablation[-2], "leaderboard")
    parts = {name: replace(part, nested_gain=float(gains[name])) for name, part in final.parts.items()}
    fused = ablation[-1]
    files = {"all": fused, "thresholded": fused[fused["above_threshold"].astype(bool)]}
    submissions = {
        name: {
            metric_mode: metric.evaluate_folds(labels, table, folds, metric_mode)
            for metric_mode in ("given", "leaderboard")
        }
        for name, table in files.items()
    }
    summary = {"fused": scores[-1], "equal_weights": scores[0], "members": alone, "best_fitted": best_fitted}
    summary["submissions"] = submissions
    return replace(final, parts=parts, mAP=summary), ablation[-1]


def _with_best_threshold(labels: pd.DataFrame, table: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """A member's cars with `above_threshold`, by the threshold that is best for these same cars."""
    truth, of_folds = (cars_[cars_["ImageId"].isin(folds["ImageId"])] for cars_ in (labels, table))
    threshold = metric.best_threshold(truth, of_folds, "leaderboard")
    return table.assign(above_threshold=table["score"] >= threshold)


def _fuse_by_others(
    folds: pd.DataFrame, members: Members, fit_on: Callable[[pd.DataFrame], Fit]
) -> list[pd.DataFrame]:
    """Tables of the cars of all folds, with `fold`, each fold fused by the fit on the other folds.

    Table i uses, of the first i PARTS, those that the fit enables. fit_on: folds → their fit.
    """
    steps: list[list[pd.DataFrame]] = [[] for _ in range(len(PARTS) + 1)]
    for fold in np.unique(folds["fold"]):
        in_fold = (folds["fold"] == fold).to_numpy()
        if in_fold.all():
            raise UserError("the folds table has one fold only; at least two are needed to fit on the others")
        fold_fit = fit_on(folds[~in_fold])
        fold_members = of_images(members, folds.loc[in_fold, "ImageId"])
        for step, tables in enumerate(steps):
            enabled = [part for part in fold_fit.enabled_parts() if part in PARTS[:step]]
            tables.append(fuse(fold_members, fold_fit, enabled).assign(fold=int(fold)))
    return [cars.concat(tables) for tables in steps]


def _report(final: Fit) -> Iterator[str]:
    """Lines for the log."""
    assert final.mAP is not None
    yield f"out-of-fold mAP (metric's mode {final.mode}), without a fit:"
    ranked = sorted(final.mAP["members"].items(), key=lambda item: -item[1])
    for name, single in ranked:
        yield f"  {single:.4f}  {name}"
    yield f"  {final.mAP['equal_weights']:.4f}  all members fused with equal weights"
    yield "out-of-fold mAP, each fold by a fit on the other folds:"
    yield f"  {final.mAP['best_fitted']:.4f}  {ranked[0][0]}, the best member, alone"
    yield f"  {final.mAP['fused']:.4f}  the fusion"
    yield f"members that are fused: {', '.join(final.used)}"
    yield "mAP gain of each part of the fit over the parts before it (nested: unbiased, by fits on the other"
    yield "folds; halves: by fits on the other half of the images, used for the choice, so optimistic):"
    for name, part in final.parts.items():
        text = DESCRIPTIONS[name] + (" (mAP of mode leaderboard)" if name == "angle_range" else "")
        state = "used" if part.on else "not used"
        yield f"  {part.nested_gain:+.4f} nested  {part.gain:+.4f} halves  {state:8s}  {name}: {text}"


def main() -> None:
    parser = program("carpose.fuse.fit", __doc__)
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument("--folds", required=True, help="folds.parquet: the images to fit on")
    parser.add_argument(
        "--members", required=True, **NAME_PATHS, help="out-of-fold predictions (oof.parquet)"
    )
    add_options(parser, Fuse, only=("mode",))
    parser.add_argument("--output", required=True, help="JSON for carpose.fuse --fit")
    parser.add_argument(
        "--fused-output", required=True, help="Parquet: the fused cars, each fold by the fit on the others"
    )
    args = parser.parse_args()
    members, folds = read_members(args.members), parquet.read_folds(args.folds)
    labels = cars.read(args.labels)
    check_out_of_fold(members, folds)
    check_same_photos(args.labels, labels, folds["ImageId"])
    mode = from_options(args, Fuse, only=("mode",)).mode
    final, fused = fit_nested(labels, folds, tables_of(members), mode)
    cars.write(args.fused_output, fused, image_ids=folds["ImageId"])
    write_text(args.output, final.to_json())
    print("\n".join(_report(final)))


if __name__ == "__main__":
    run_main(main)
