"""Pseudo labels of one round: for every fold, the fused test predictions of that fold's models alone.

In: labels, folds, the members' oof.parquet (to fit fusion, calibration and cuts on the other folds) and
test_folds.parquet. Out: a table of cars with fold, score, weight, depth_sigma and role, and a JSON report.
"""

import argparse
import json

import pandas as pd

from carpose.config.options import add_options, from_options
from carpose.config.sections import Pseudo
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.kaggle.read import (
    Predictions,
    check_coverage,
    images_of,
    note_code,
    read_members,
    read_truth,
    tables_of,
)

from .labels import make_fold
from .report import against_truth, drift

ROLES = {"fold": parquet.NUMBER, "role": parquet.TEXT}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.pseudo",
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
    add_options(parser, Pseudo)
    parser.add_argument("--previous", help="pseudo.parquet of the round before: report the drift")
    parser.add_argument(
        "--test-truth",
        help="true cars of the unlabelled photos (a CSV like train.csv, or Parquet), where they are known: "
        "precision and recall are reported, nothing is fitted to them",
    )
    parser.add_argument("--output", required=True, help="Parquet: the pseudo labels of all folds")
    parser.add_argument("--report", required=True, help="JSON: cuts, counts, precision, drift per fold")
    args = parser.parse_args()
    settings = from_options(args, Pseudo)

    labels, folds = cars.read(args.labels), parquet.read_folds(args.folds)
    fit_members = read_with_fold(args.fit_members, "--fit-members")
    test_members = read_with_fold(args.test_members, "--test-members")
    if list(fit_members) != list(test_members):
        raise UserError(
            f"--fit-members names {', '.join(fit_members)} and --test-members {', '.join(test_members)}; "
            "name the same members in the same order"
        )
    check_coverage(fit_members, folds["ImageId"])
    note_code(fit_members, test_members)
    tables, reports = make_all(
        labels,
        folds,
        tables_of(fit_members),
        tables_of(test_members),
        settings,
        cars.read(args.previous, columns=ROLES) if args.previous else None,
        read_truth(args.test_truth) if args.test_truth else None,
    )
    cars.write(args.output, cars.concat(tables), image_ids=images_of(test_members))
    summary = {
        "hit": "relative distance < 10 %, rotation < 50°",
        "mode": settings.mode,
        "precision_positive": settings.precision_positive,
        "precision_ignore": settings.precision_ignore,
        "folds": reports,
    }
    write_text(args.report, json.dumps(summary, indent=1, ensure_ascii=False))


def make_all(
    labels: pd.DataFrame,
    folds: pd.DataFrame,
    fit_members: dict[str, pd.DataFrame],
    test_members: dict[str, pd.DataFrame],
    settings: Pseudo,
    previous: pd.DataFrame | None,
    truth: pd.DataFrame | None,
) -> tuple[list[pd.DataFrame], dict[str, dict]]:
    """Pseudo labels and report of every fold, printed as they are made.

    previous: pseudo labels of the round before; truth: of the test photos; None where there are none.
    """
    tables, reports = [], {}
    for fold in sorted(folds["fold"].unique().tolist()):
        table, report = make_fold(labels, folds, fit_members, test_members, fold, settings)
        if previous is not None:
            earlier = previous[(previous["fold"] == fold) & (previous["role"] == "positive")]
            report["drift"] = drift(earlier, table[table["role"] == "positive"])
        if truth is not None:
            report["hidden_truth"] = against_truth(truth, table)
        tables.append(table)
        reports[str(fold)] = report
        print(line(fold, report, settings))
    return tables, reports


def read_with_fold(arguments: list[str], option: str) -> dict[str, Predictions]:
    """Raises UserError where a table does not say which fold's models made it."""
    members = read_members(arguments)
    for name, member in members.items():
        if "fold" not in member.cars:
            raise UserError(f"{option} {name}: no column fold; predict writes it, make the table again")
    return members


def line(fold: int, report: dict, settings: Pseudo) -> str:
    """What the log says of one fold."""
    text = (
        f"fold {fold}: {report['positive']} positives (score ≥ {report['cut_positive']:.3f}), "
        f"{report['ignore']} ignored (≥ {report['cut_ignore']:.3f})"
    )
    if not report["target_reached"]:
        text += f"; precision {settings.precision_positive} was not reached"
    known = report.get("drift", {}) | report.get("hidden_truth", {})
    measures = [
        f"; {name.replace('_', ' ')} {value:.3f}" for name, value in known.items() if value is not None
    ]
    return text + "".join(measures)


if __name__ == "__main__":
    run_main(main)
