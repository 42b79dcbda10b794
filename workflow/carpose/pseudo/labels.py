"""Pseudo labels of one round: for every fold, the fused test predictions of that fold's models alone.

In: labels, folds, the members' oof.parquet (to fit fusion, calibration and cuts on the other folds) and
test_folds.parquet. Out: a table of cars with fold, score, weight, depth_sigma and role, and a JSON report.

A car counts as a hit at the metric's loosest thresholds (10 % of the distance, 50°): stricter ones would
leave weak models without any sure car.
"""

import argparse
import itertools
import json

import numpy as np
import pandas as pd

from . import UserError, cars, fusion_fit, metric, parquet
from .calibration import cut_for_precision, cut_for_probability, predict_logistic
from .clustering import cluster, rays
from .files import run_main, write_text
from .fuse import combine, finish, read_members, stack
from .options import real

AT_LEAST = 0.05  # share of the cars that become positives at least, and that a precision is measured on
BANDS = [0, 20, 40, 60, np.inf]  # metres, for the report
COLUMNS = ["ImageId", *cars.POSE, "score", "depth_sigma", "weight", "role", "fold"]


def make_fold(
    labels: pd.DataFrame,
    folds: pd.DataFrame,
    fit_members: dict[str, pd.DataFrame],
    test_members: dict[str, pd.DataFrame],
    fold: int,
    precision_positive: float,
    precision_ignore: float,
    mode: str,
) -> tuple[pd.DataFrame, dict]:
    """The pseudo labels of one fold and what to report of them.

    fit_members: out-of-fold predictions, of which this fold's images are not looked at; test_members:
    predictions of the unlabelled photos by each fold's models (column fold), of which only this fold's are.
    """
    others = folds[folds["fold"] != fold]
    fit = fusion_fit.fit(labels, fit_members, others["ImageId"], others["fold"].to_numpy(), "given")
    known = fit["inner"]
    probability, did = known["hit"].to_numpy(float), known["did"].to_numpy(bool)
    positive = cut_for_precision(probability, did, precision_positive, AT_LEAST)
    taken = probability >= positive
    reached = bool(taken.any() and did[taken].mean() >= precision_positive)
    if reached:  # sure as a set is not enough: each must be more likely right than wrong
        even = cut_for_probability(probability, did, min(0.5, precision_positive))
        positive = max(positive, even)

    here = {name: table[table["fold"] == fold] for name, table in test_members.items() if name in fit["used"]}
    on = [part for part, found in fit["parts"].items() if found["on"] and part != "threshold"]
    fused, features = combine(stack(here), fit, list(here), on)
    fused = finish(fused.assign(hit=predict_logistic(fit["hit"], features)), features, fit, on)
    fused = fused.assign(score=fused["hit"], fold=fold)
    if not reached and len(fused):
        positive = float(np.quantile(fused["score"], 1 - AT_LEAST, method="higher"))
    ignore = min(cut_for_probability(probability, did, precision_ignore), positive)
    fused = fused[fused["score"] >= ignore]
    sure = fused["score"] >= positive
    table = fused.assign(
        role=np.where(sure, "positive", "ignore"),
        weight=np.where(sure, fused["score"] if mode == "soft" else 1.0, 0.0),
    )[COLUMNS].reset_index(drop=True)

    taken = probability >= positive
    report = {
        "cut_positive": positive,
        "cut_ignore": ignore,
        "precision_out_of_fold": float(did[taken].mean()) if taken.any() else None,
        "target_reached": reached,
        "share_of_hits_kept": float(did[taken].sum() / max(did.sum(), 1)),
        "positive": int(sure.sum()),
        "ignore": int((~sure).sum()),
        "images": int(table["ImageId"].nunique()),
        "mean_agreement": float(fused.loc[sure, "agreement"].mean() / len(here)) if sure.any() else None,
        "positive_by_distance": by_distance(table[table["role"] == "positive"]),
    }
    return table, report


def by_distance(table: pd.DataFrame) -> dict[str, float]:
    """Share of the cars in each band of depth."""
    counts = np.histogram(table["z"], BANDS)[0]
    names = [f"{low}–{high:g} m" for low, high in itertools.pairwise(BANDS)]
    return dict(zip(names, (counts / max(len(table), 1)).round(4).tolist(), strict=True))


def against_truth(truth: pd.DataFrame, table: pd.DataFrame) -> dict[str, float | None]:
    """Pseudo labels of one fold against the true cars of the same photos, for the report alone.

    precision: share of the positives that hit a true car; recall: share of the true cars they hit;
    ignored_hits: share of the ignored cars that hit one; as_background: share of the true cars that
    neither hits, which training takes for road.
    """
    hits = metric.match(truth, table)[:, 0]
    sure = (table["role"] == "positive").to_numpy(bool)

    def share(count, of):
        return float(count / of) if of else None

    return {
        "precision": share(hits[sure].sum(), sure.sum()),
        "recall": share(hits[sure].sum(), len(truth)),
        "ignored_hits": share(hits[~sure].sum(), (~sure).sum()),
        "as_background": share(len(truth) - hits.sum(), len(truth)),
    }


def drift(previous: pd.DataFrame, table: pd.DataFrame) -> dict:
    """How the positives of one round (and fold) differ from those of the round before.

    kept: share of the earlier that are still there; new: share of the later that were not;
    median_shift: of those in both, distance over range.
    """
    both = cars.concat([previous[["ImageId", *cars.POSE]], table[["ImageId", *cars.POSE]]])
    if not len(previous) or not len(table):
        return {"kept": None, "new": None, "median_shift": None}
    member = np.repeat([0, 1], [len(previous), len(table)])
    direction, log_range = rays(both)
    tolerance = np.full(len(both), 0.1 / np.sqrt(2))
    labels = cluster(
        *(pd.factorize(both["ImageId"])[0], member, direction, log_range),
        *(tolerance, tolerance, -member.astype(float)),
        recentre=False,
    )
    before, after = labels[member == 0], labels[member == 1]
    _, i, j = np.intersect1d(before, after, return_indices=True)
    at = [part[cars.POSITION].to_numpy(float) for part in (previous.iloc[i], table.iloc[j])]
    shift = np.linalg.norm(at[0] - at[1], axis=1) / np.linalg.norm(at[0], axis=1)
    return {
        "kept": len(i) / len(previous),
        "new": 1 - len(j) / len(table),
        "median_shift": float(np.median(shift)) if len(shift) else None,
    }


def _members(arguments, option):
    members = read_members(arguments)[0]
    for name, table in members.items():
        if "fold" not in table:
            raise UserError(f"{option} {name}: no column fold; predict writes it, make the table again")
    return members


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Pseudo labels, fold by fold, from models that never saw the fold's validation photos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument("--folds", required=True, help="folds.parquet: ImageId, fold")
    parser.add_argument(
        "--fit-members", nargs="+", required=True, metavar="NAME=PATH", help="out-of-fold predictions"
    )
    parser.add_argument(
        "--test-members",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="predictions of the unlabelled photos by each fold's models (test_folds.parquet), same names",
    )
    parser.add_argument(
        "--mode",
        choices=["soft", "hard"],
        default="soft",
        help="weight of a positive: its probability (soft) or 1 (hard)",
    )
    parser.add_argument(
        "--precision-positive",
        type=real(0, 1),
        default=0.8,
        help="0 … 1; cars are positives down to the score where this share of them is still right (and each "
        f"more likely right than wrong); where it is never reached, the surest {100 * AT_LEAST:g} %%",
    )
    parser.add_argument(
        "--precision-ignore",
        type=real(0, 1),
        default=0.2,
        help="0 … 1; cars less probable than this are background, those up to the positives are ignored",
    )
    parser.add_argument("--previous", help="pseudo.parquet of the round before: report the drift")
    parser.add_argument(
        "--test-truth",
        help="true cars of the unlabelled photos (a CSV like train.csv, or Parquet), where they are known: "
        "precision and recall are reported, nothing is fitted to them",
    )
    parser.add_argument("--output", required=True, help="Parquet: the pseudo labels of all folds")
    parser.add_argument("--report", required=True, help="JSON: cuts, counts, precision, drift per fold")
    args = parser.parse_args()

    labels, folds = cars.read(args.labels), parquet.read_folds(args.folds)
    fit_members = _members(args.fit_members, "--fit-members")
    test_members = _members(args.test_members, "--test-members")
    if list(fit_members) != list(test_members):
        raise UserError(
            f"--fit-members names {', '.join(fit_members)} and --test-members {', '.join(test_members)}; "
            "name the same members in the same order"
        )
    roles = {"fold": parquet.NUMBER, "role": parquet.TEXT}
    previous = cars.read(args.previous, columns=roles) if args.previous else None
    truth = metric.read_truth(args.test_truth) if args.test_truth else None
    tables, reports = [], {}
    for fold in sorted(folds["fold"].unique().tolist()):
        table, report = make_fold(
            labels,
            folds,
            fit_members,
            test_members,
            fold,
            args.precision_positive,
            args.precision_ignore,
            args.mode,
        )
        if previous is not None:
            earlier = previous[(previous["fold"] == fold) & (previous["role"] == "positive")]
            report["drift"] = drift(earlier, table[table["role"] == "positive"])
        if truth is not None:
            report["hidden_truth"] = against_truth(truth, table)
        tables.append(table)
        reports[str(fold)] = report
        print(
            f"fold {fold}: {report['positive']} positives (score ≥ {report['cut_positive']:.3f}), "
            f"{report['ignore']} ignored (≥ {report['cut_ignore']:.3f})"
            + ("" if report["target_reached"] else f"; precision {args.precision_positive} was not reached")
            + "".join(
                f"; {name.replace('_', ' ')} {value:.3f}"
                for name, value in (report.get("drift", {}) | report.get("hidden_truth", {})).items()
                if value is not None
            )
        )
    cars.write(args.output, cars.concat(tables))
    hit = "relative distance < 10 %, rotation < 50°"
    summary = {
        "hit": hit,
        "mode": args.mode,
        "precision_positive": args.precision_positive,
        "precision_ignore": args.precision_ignore,
        "folds": reports,
    }
    write_text(args.report, json.dumps(summary, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)
