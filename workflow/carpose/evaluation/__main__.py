"""One table that compares all models, rounds and the fused result by the metric.

In: labels, folds and tables of out-of-fold cars (and of test cars where the truth is known).
Out: evaluation.csv, sorted by mAP, and a table by distance bands. mAP counts all cars with their confidences,
mAP_equal the sure ones with equal confidences: those that the fusion kept, or of a score from equal_from on.
"""

import argparse
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import atomic, run_main
from carpose.kaggle.read import (
    check_coverage,
    note_code,
    read_members,
    read_test_images,
    read_truth,
    tables_of,
)

from .table import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.evaluation",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    member = {"nargs": "+", "metavar": "NAME=PATH", "default": []}
    parser.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    parser.add_argument("--folds", type=Path, required=True, help="folds.parquet: which images are evaluated")
    parser.add_argument("--members", **member, help="Parquet tables of out-of-fold cars")
    parser.add_argument("--test-truth", type=Path, help="true cars of the test images, CSV or Parquet")
    parser.add_argument("--test-members", **member, help="Parquet tables of test cars")
    parser.add_argument(
        "--images", type=Path, help="images.parquet of the check: which test images there are"
    )
    parser.add_argument("--output", type=Path, required=True, help="evaluation.csv to write")
    parser.add_argument(
        "--bands-output", type=Path, help="CSV of recall and depth error by distance, to write"
    )
    args = parser.parse_args()
    if not args.members and not args.test_members:
        raise UserError("nothing to evaluate: give --members or --test-members")
    if args.test_members and not (args.test_truth and args.images):
        raise UserError("--test-members need --test-truth and --images")

    folds = parquet.read_folds(args.folds)
    members, test_members = read_members(args.members), read_members(args.test_members)
    check_coverage(members, folds["ImageId"])
    note_code(members, test_members)
    table, distance = evaluate(
        cars.read(args.labels),
        folds,
        tables_of(members),
        read_truth(args.test_truth) if test_members else None,
        read_test_images(args.images) if test_members else None,
        tables_of(test_members),
    )
    write(args.output, table)
    if args.bands_output:
        write(args.bands_output, distance)
    print(table.to_string(index=False, float_format="{:.4f}".format, na_rep="–"))
    best = distance[distance["name"] == table["name"][0]]
    print(f"\n{table['name'][0]} by distance:")
    print(best.drop(columns="name").to_string(index=False, float_format="{:.3f}".format, na_rep="–"))


def write(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_main(main)
