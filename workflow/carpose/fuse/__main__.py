"""Fusion of the cars of several members (models or submission files) into one table.

In: tables of cars with score, one per member, and the fit of carpose.fuse.fit (without it all members count
the same). Out: a table of cars with score and depth_sigma, as Parquet or as a submission CSV.
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

from .combine import fuse_with_missing
from .fitted import read_fit


def main() -> None:
    parser = program("carpose.fuse", __doc__)
    parser.add_argument(
        "--inputs", required=True, **NAME_PATHS, help="submissions (.csv) or tables (.parquet)"
    )
    parser.add_argument("--fit", help="JSON of carpose.fuse.fit; without it all members count the same")
    text = "sample_submission.csv: its photos, in its order, are the rows of a CSV output (default: those of "
    text += "the inputs)"
    parser.add_argument("--sample", help=text)
    parser.add_argument("--output", required=True, help="a submission (.csv) or a table of cars (.parquet)")
    add_strict(parser)
    args = parser.parse_args()
    if (suffix := Path(args.output).suffix) not in (".csv", ".parquet"):
        text = f"{suffix} is not a known format" if suffix else "the name has no suffix"
        text += "; name it .csv or .parquet"
        raise UserError(f"{args.output}: {text}")
    if args.sample and suffix != ".csv":
        raise UserError(f"--sample {args.sample}: it applies to a CSV output only; name the output .csv")
    check_outputs(Path(args.output))
    sample = read_sample(args.sample) if args.sample else None
    members = read_members(args.inputs, args.strict)
    image_ids = images_of(members)
    submissions = {name: member for name, member in members.items() if Path(member.path).suffix == ".csv"}
    tables = {name: member for name, member in members.items() if name not in submissions}
    check_coverage(members if args.strict else tables, image_ids)
    missing = note_missing(submissions, image_ids)
    fused = fuse_with_missing(tables_of(members), missing, read_fit(args.fit) if args.fit else None)
    if suffix == ".csv":
        note_not_predicted(args.sample, sample or image_ids, image_ids)
        write_submission(args.output, fused, sample or image_ids)
    else:
        cars.write(args.output, fused, image_ids=image_ids)
    before = sum(len(member.cars) for member in members.values())
    print(f"{args.output}: {before} cars of {len(members)} members were fused into {len(fused)}")


def note_missing(submissions: Mapping[str, Predictions], image_ids: list[str]) -> dict[str, pd.Index]:
    """Names of the files without a row for some photos → those photos. Prints a note for each file."""
    missing = {}
    for name, member in submissions.items():
        if len(photos := unpredicted_photos(member, image_ids)):
            missing[name] = photos
            text = f"no row for {len(photos)} of {len(image_ids)} photos, first {photos[0]}"
            print(f"note: {member.path}: {text}; only the other files are fused there", file=sys.stderr)
    return missing


def note_not_predicted(path: str, sample: list[str], image_ids: list[str]) -> None:
    """Prints a note where the sample has photos that no file has."""
    missing = pd.Index(sample)[~pd.Index(sample).isin(image_ids)]
    if len(missing):
        text = f"{len(missing)} of {len(sample)} photos are in none of the inputs, first {missing[0]}"
        print(f"note: {path}: {text}; they get no cars", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
