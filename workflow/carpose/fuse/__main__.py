"""Fusion of the cars of several models (or submission files) into one table.

In: tables of cars with score, one per member, and the fit of carpose.fuse.fit (or none: equal weights).
Out: a table of cars with score and depth_sigma, as Parquet or as a submission CSV.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.core.options import NAME_PATHS, program
from carpose.kaggle.read import (
    Predictions,
    add_strict,
    check_coverage,
    images_of,
    read_members,
    tables_of,
    unpredicted_photos,
)
from carpose.kaggle.submission import write_submission
from carpose.kaggle.tables import read_sample

from .combine import fuse_looked_at
from .fitted import read_fit


def main() -> None:
    parser = program("carpose.fuse", __doc__)
    parser.add_argument(
        "--inputs", required=True, **NAME_PATHS, help="submissions (.csv) or tables (.parquet)"
    )
    parser.add_argument("--fit", help="JSON of carpose.fuse.fit; without it all members count the same")
    text = "sample_submission.csv: the photos of a CSV output and their order, instead of the inputs'"
    parser.add_argument("--sample", help=text)
    parser.add_argument("--output", required=True, help="a submission (.csv) or a table of cars (.parquet)")
    add_strict(parser)
    args = parser.parse_args()
    if (suffix := Path(args.output).suffix) not in (".csv", ".parquet"):
        raise UserError(f"{args.output}: {suffix or 'no suffix'} is no format; name it .csv or .parquet")
    if args.sample and suffix != ".csv":
        raise UserError(f"--sample {args.sample}: is for a submission; name the output .csv")
    check_outputs(Path(args.output))
    sample = read_sample(args.sample) if args.sample else None
    members = read_members(args.inputs, args.strict)
    image_ids = images_of(members)
    submissions = {name: member for name, member in members.items() if Path(member.path).suffix == ".csv"}
    tables = {name: member for name, member in members.items() if name not in submissions}
    check_coverage(members if args.strict else tables, image_ids)
    missing = note_missing(submissions, image_ids)
    fused = fuse_looked_at(tables_of(members), missing, read_fit(args.fit) if args.fit else None)
    if suffix == ".csv":
        note_unseen(args.sample, sample or image_ids, image_ids)
        write_submission(args.output, fused, sample or image_ids)
    else:
        cars.write(args.output, fused, image_ids=image_ids)
    before = sum(len(member.cars) for member in members.values())
    print(f"{args.output}: {len(fused)} cars from {before} of {len(members)} members")


def note_missing(submissions: Mapping[str, Predictions], image_ids: list[str]) -> dict[str, pd.Index]:
    """Names of the files without a row for some photos → those photos; a note for each file."""
    missing = {}
    for name, member in submissions.items():
        if len(photos := unpredicted_photos(member, image_ids)):
            missing[name] = photos
            text = f"no row for {len(photos)} of {len(image_ids)} photos, first {photos[0]}"
            print(f"note: {member.path}: {text}; there the other files alone are fused", file=sys.stderr)
    return missing


def note_unseen(path: str, sample: list[str], image_ids: list[str]) -> None:
    """A note where the sample has photos that no file has."""
    unseen = pd.Index(sample)[~pd.Index(sample).isin(image_ids)]
    if len(unseen):
        text = f"{len(unseen)} of {len(sample)} photos are in none of the inputs, first {unseen[0]}"
        print(f"note: {path}: {text}; they stay without cars", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
