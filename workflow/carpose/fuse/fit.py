"""Fit what the fusion needs on out-of-fold predictions: which members, and the parts of carpose.fuse.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the honest gain of each
part, and the fused out-of-fold cars, each fold fused by what was fitted on the other folds.
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
from .fitted import PARTS, Fit
from .members import Members, of_images
from .trial import fit, fit_as_it_is, score


def fit_nested(
    labels: pd.DataFrame, folds: pd.DataFrame, members: Members, mode: str
) -> tuple[Fit, pd.DataFrame]:
    """The fit on all folds, and the fused cars of each fold by the fit on the others.

    Returns the fit and the fused table with `fold`. Its `mAP` are honest, each fold by itself: `fused` and
    `best_fitted`, the best member alone through the same fit, come from fits that never saw the fold,
    `equal_weights` and the `members` as they are need none (for the leaderboard, but for a threshold).
    `submissions` has those of all fused cars and of those above the threshold, in either mode.

    Of the parts, `gain` is the one by which the part was chosen, fitted on one half of the images and
    measured on the other, and `nested_gain` the honest one: what the part adds on top of those before it,
    chosen and fitted on the other folds. The nested gains sum to `fused` − `equal_weights`, but for the
    writing's: it is of the leaderboard's metric in any mode.

    Where the fused cars score less than the best member as it is, the fit is to use that one as it is.
    """

    def value(table, mode=mode):
        return score(labels, table, folds, mode)

    def learn(members):
        return lambda folds: fit(labels, members, folds, mode)[0]

    final, ablation = learn(members)(folds), _fuse_by_others(folds, members, learn(members))
    alone = {name: value(_for_leaderboard(labels, table, folds)) for name, table in members.items()}
    best = max(alone, key=alone.get)
    best_alone = {best: members[best]}
    best_fitted = value(_fuse_by_others(folds, best_alone, learn(best_alone))[-1])
    if value(ablation[-1]) < alone[best]:

        def learn_best(folds):
            return fit_as_it_is(labels, members, folds["ImageId"], best, mode)

        final, ablation = learn_best(folds), _fuse_by_others(folds, members, learn_best)
    values = [value(table) for table in ablation]
    gains = dict(zip(PARTS, np.diff(values), strict=True))
    gains["writing"] = value(ablation[-1], "leaderboard") - value(ablation[-2], "leaderboard")
    parts = {name: replace(part, nested_gain=float(gains[name])) for name, part in final.parts.items()}
    fused = ablation[-1]
    files = {"all": fused, "thresholded": fused[fused["above_threshold"].astype(bool)]}
    expected = {
        name: {mode: metric.evaluate_folds(labels, table, folds, mode) for mode in ("given", "leaderboard")}
        for name, table in files.items()
    }
    scores = {"fused": values[-1], "equal_weights": values[0], "members": alone, "best_fitted": best_fitted}
    scores["submissions"] = expected
    return replace(final, parts=parts, mAP=scores), ablation[-1]


def _for_leaderboard(labels: pd.DataFrame, table: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """A member's cars with `above_threshold`, by the threshold that is best for these very cars."""
    truth, of_folds = (cars_[cars_["ImageId"].isin(folds["ImageId"])] for cars_ in (labels, table))
    threshold = metric.best_threshold(truth, of_folds, "leaderboard")
    return table.assign(above_threshold=table["score"] >= threshold)


def _fuse_by_others(
    folds: pd.DataFrame, members: Members, learn: Callable[[pd.DataFrame], Fit]
) -> list[pd.DataFrame]:
    """The cars of each fold, with `fold`, by what is learnt of the other folds: with the first 0, 1 …
    of PARTS, those of them that paid."""
    steps = [[] for _ in range(len(PARTS) + 1)]
    for fold in np.unique(folds["fold"]):
        inside = (folds["fold"] == fold).to_numpy()
        if inside.all():
            raise UserError("the folds table has one fold only; at least two are needed to fit on the others")
        learnt = learn(folds[~inside])
        fold_members = of_images(members, folds.loc[inside, "ImageId"])
        for step, tables in enumerate(steps):
            on = [part for part in learnt.enabled_parts() if part in PARTS[:step]]
            tables.append(fuse(fold_members, learnt, on).assign(fold=int(fold)))
    return [cars.concat(tables) for tables in steps]


def _report(final: Fit) -> Iterator[str]:
    """Lines for the log."""
    yield f"mAP ({final.mode}) out of fold:"
    ranked = sorted(final.mAP["members"].items(), key=lambda item: -item[1])
    for name, single in ranked:
        yield f"  {single:.4f}  {name}"
    yield f"  {final.mAP['equal_weights']:.4f}  fused, equal weights"
    yield "and by a fit on the other folds:"
    yield f"  {final.mAP['best_fitted']:.4f}  {ranked[0][0]} alone"
    yield f"  {final.mAP['fused']:.4f}  fused"
    yield f"used: {', '.join(final.used)}"
    for name, part in final.parts.items():
        state = "on" if part.on else "off: does not pay"
        unit = " (leaderboard)" if name == "writing" else ""
        yield f"  {name:12s} {part.nested_gain:+.4f} nested, {part.gain:+.4f} when chosen{unit}  {state}"


def main() -> None:
    parser = program("carpose.fuse.fit", __doc__)
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument("--folds", required=True, help="folds.parquet: which images are used")
    parser.add_argument(
        "--members", required=True, **NAME_PATHS, help="out-of-fold predictions (oof.parquet)"
    )
    add_options(parser, Fuse, only=("mode",))
    parser.add_argument("--output", required=True, help="JSON for carpose.fuse --fit")
    parser.add_argument("--fused-output", required=True, help="Parquet: fused, each fold by the others' fit")
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
