"""Fit what the fusion needs on out-of-fold predictions: which members, and the parts of carpose.fuse.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the honest gain of each
part, and the fused out-of-fold cars, each fold fused by what was fitted on the other folds.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from carpose import metric
from carpose.config.options import add_options, from_options
from carpose.config.sections import Fuse
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.kaggle.read import check_coverage, note_code, read_members, tables_of

from .combine import finish, fuse
from .fitted import PARTS, Fit
from .members import Members, fit_members, of_images
from .trial import (
    Trial,
    choose_gate,
    choose_ground,
    choose_members,
    choose_scores,
    choose_weights,
    fit_scores,
    with_gate,
)


def fit(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], groups: np.ndarray, mode: str
) -> tuple[Fit, pd.DataFrame]:
    """Fit everything on some images.

    labels: true cars; members: predictions by name; image_ids: the images to use; groups: one int per
    image, which must stay together (their fold); mode: "given" or "equal" confidences.

    Which parts are used is decided on halves: fitted on one, measured on the other, one part after the
    other. Returns what `fuse.fuse` takes as `fit`, and the cars of all images, each half fused by the fit on
    the other half, with their probability `hit` of a hit at the loosest thresholds and whether they did hit
    (`is_hit`).
    """
    image_ids = np.asarray(list(image_ids), object)
    truth = labels[labels["ImageId"].isin(image_ids)]
    trial = Trial(truth, image_ids, _halves(image_ids, np.asarray(groups)), mode)
    everyone = fit_members(truth, members, image_ids)
    parts = choose_weights(trial, members)
    on = _on(parts)
    members, parts["members"] = choose_members(trial, members, on)
    halves, names = trial.halves(members), list(members)
    gate, parts["gate"] = choose_gate(trial, halves, names, on)
    halves = with_gate(halves, gate)
    on = _on(parts)
    parts["ground"] = choose_ground(trial, halves, names, on)
    if parts["ground"].on:
        on = [*on, "ground"]
    scored = trial.scored(members, halves, on)
    parts |= choose_scores(trial, scored, on)

    kept = [part for part, chosen in parts.items() if chosen.on and part != "threshold"]
    tables = []
    for one in scored:
        fused = one.fused.assign(hit=one.fit.hit.predict(one.features))
        tables.append(finish(fused, one.features, one.fit, kept))
    oof = cars.concat(tables)
    geometry = trial.geometry(members, image_ids)
    geometry = replace(geometry, members=everyone | geometry.members, used=names, gate=gate)
    result = fit_scores(truth, members, image_ids, geometry, on)
    return replace(result, parts=parts), oof.assign(is_hit=metric.match(truth, oof)[:, 0])


def _on(parts: dict) -> list[str]:
    return [part for part in PARTS if part in parts and parts[part].on]


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
        own = of_images(members, image_ids[inside])
        enabled = learnt.enabled_parts()
        for step, tables in enumerate(ablation):
            on = [part for part in PARTS[:step] if part in enabled]
            tables.append(fuse(own, learnt, on).assign(fold=int(fold)))
    ablation = [cars.concat(tables) for tables in ablation]

    def value(table):
        return metric.evaluate(labels, table, image_ids, mode == "equal")["mAP"]

    values = [value(table) for table in ablation]
    gains = dict(zip(PARTS, np.diff(values), strict=True))
    parts = {name: replace(part, nested_gain=float(gains[name])) for name, part in final.parts.items()}
    scores = {
        "fused": values[-1],
        "equal_weights": values[0],
        "members": {name: value(table) for name, table in members.items()},
    }
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
    parser = argparse.ArgumentParser(
        prog="python -m carpose.fuse.fit",
        description="Fit the fusion on out-of-fold predictions.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument(
        "--folds", required=True, help="folds.parquet: ImageId, fold; only these images are used"
    )
    parser.add_argument(
        "--members",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="out-of-fold predictions (oof.parquet)",
    )
    add_options(parser, Fuse, leave_out=("rounds",))
    parser.add_argument("--output", required=True, help="JSON for carpose.fuse --fit")
    parser.add_argument(
        "--fused-output", required=True, help="Parquet: the fused cars, each fold by the others' fit"
    )
    args = parser.parse_args()
    members, folds = read_members(args.members), parquet.read_folds(args.folds)
    check_coverage(members, folds["ImageId"])
    note_code(members)
    mode = from_options(args, Fuse, leave_out=("rounds",)).mode
    final, fused = fit_nested(cars.read(args.labels), folds, tables_of(members), mode)
    cars.write(args.fused_output, fused, image_ids=folds["ImageId"])
    write_text(args.output, final.to_json())
    print("\n".join(_report(final)))


if __name__ == "__main__":
    run_main(main)
