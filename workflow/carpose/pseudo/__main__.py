"""Pseudo labels of the unlabelled photos, for each fold by networks that were not trained on the fold's
photos.

In: labels, folds, the members' oof.parquet (to fit fusion, calibration and thresholds on the other folds) and
test_folds.parquet. Out: a table of cars with fold, score, weight, depth_sigma and role, and a JSON report.
"""

import json

from carpose.config.options import add_options, from_options
from carpose.config.sections import Pseudo
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.core.options import NAME_PATHS, program
from carpose.kaggle import read

from .labels import compare_with_truth, drift, make_fold

# How the log writes the measures of a fold.
MEASURES = {
    "kept": "{:.3f} of the last round's positives kept",
    "new": "{:.3f} of the positives new",
    "median_shift": "median shift {:.3f} of the distance",
    "precision": "precision {:.3f} against the truth",
    "recall": "recall {:.3f}",
    "ignored_hits": "{:.3f} of the ignored cars are hits",
    "as_background": "{:.3f} of the true cars have no pseudo label",
}


def main() -> None:
    parser = program("carpose.pseudo", __doc__)
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument("--folds", required=True, help="folds.parquet: ImageId, fold")
    parser.add_argument(
        "--fit-members", required=True, **NAME_PATHS, help="out-of-fold predictions (oof.parquet)"
    )
    parser.add_argument(
        "--test-members",
        required=True,
        **NAME_PATHS,
        help="test_folds.parquet of the same members, same names",
    )
    add_options(parser, Pseudo)
    parser.add_argument("--previous", help="pseudo.parquet of the round before, to report what changed")
    parser.add_argument("--test-truth", help="true cars of the unlabelled photos, only for the report")
    parser.add_argument("--output", required=True, help="Parquet: the pseudo labels of all folds")
    parser.add_argument(
        "--report", required=True, help="JSON: thresholds, counts, precision and drift of each fold"
    )
    args = parser.parse_args()
    settings = from_options(args, Pseudo)

    labels, folds = cars.read(args.labels), parquet.read_folds(args.folds)
    fit_members = read_with_fold(args.fit_members, "--fit-members")
    test_members = read_with_fold(args.test_members, "--test-members")
    if list(fit_members) != list(test_members):
        names = f"--fit-members has {', '.join(fit_members)}, but --test-members {', '.join(test_members)}"
        raise UserError(f"{names}; give the same members in the same order")
    read.check_same_photos(args.labels, labels, folds["ImageId"])
    read.check_out_of_fold(fit_members, folds)
    read.check_coverage(test_members, read.images_of(test_members))
    numbers = sorted(folds["fold"].unique().tolist())
    check_all_folds(test_members, numbers)
    roles = {"fold": parquet.NUMBER, "role": parquet.TEXT}
    previous = cars.read(args.previous, columns=roles) if args.previous else None
    truth = read.read_truth(args.test_truth) if args.test_truth else None
    if truth is not None:
        read.check_same_photos(args.test_truth, truth, read.images_of(test_members))
    members = read.tables_of(fit_members), read.tables_of(test_members)
    tables, reports = [], {}
    for fold in numbers:
        table, report = make_fold(labels, folds, *members, fold, settings)
        if previous is not None:
            earlier = previous[(previous["fold"] == fold) & (previous["role"] == "positive")]
            report["drift"] = drift(earlier, table[table["role"] == "positive"])
        if truth is not None:
            report["hidden_truth"] = compare_with_truth(truth, table)
        tables.append(table)
        reports[str(fold)] = report
        print(describe(fold, report, settings))
    cars.write(args.output, cars.concat(tables), read.images_of(test_members), numbers)
    options = {name: getattr(settings, name) for name in ("mode", "precision_positive", "probability_ignore")}
    summary = {"hit": "relative distance < 10 %, rotation < 50°", **options, "folds": reports}
    write_text(args.report, json.dumps(summary, indent=1, ensure_ascii=False))


def read_with_fold(arguments: list[str], option: str) -> dict[str, read.Predictions]:
    """Tables by member name. Raises UserError where one has no column fold (which fold's network made the
    car)."""
    members = read.read_members(arguments)
    for name, member in members.items():
        if "fold" not in member.cars:
            text = "column fold is missing; make the table again with carpose.predict"
            raise UserError(f"{option} {name}: {member.path}: {text}")
    return members


def check_all_folds(members: dict[str, read.Predictions], folds: list[int]) -> None:
    """Raises UserError where a table is not of just these folds. A fold that is missing would get no pseudo
    labels, and training would take its photos for empty."""
    for member in members.values():
        predicted = set(member.cars["fold"] if member.folds is None else member.folds)
        if member.folds is None:
            predicted |= set(folds)  # no list of folds: one whose network predicted no car has no row
        if predicted != set(folds):
            actual, expected = (", ".join(f"{fold:g}" for fold in sorted(ids)) for ids in (predicted, folds))
            text = f"has predictions of the networks of folds {actual} instead of {expected}"
            raise UserError(f"{member.path}: {text}; predict again with the models of all folds")


def describe(fold: int, report: dict, settings: Pseudo) -> str:
    """The log's line of one fold."""
    text = f"fold {fold}: {report['positive']} positives (score ≥ {report['threshold_positive']:.3f}), "
    text += f"{report['ignore']} ignored (score ≥ {report['threshold_ignore']:.3f})"
    if not report["target_reached"]:
        text += f"; the target precision {settings.precision_positive} was not reached out of fold"
    measures = report.get("drift", {}) | report.get("hidden_truth", {})
    return text + "".join(f"; {MEASURES[k].format(v)}" for k, v in measures.items() if v is not None)


if __name__ == "__main__":
    run_main(main)
