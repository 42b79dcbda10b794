"""Fusion of the cars of several models (or submission files) into one table.

In: tables of cars with score, one per member, and the fit of carpose.fuse.fit (or none: equal weights).
Out: a table of cars with score and depth_sigma, as Parquet or as a submission CSV.
"""

import argparse
from pathlib import Path

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.kaggle.read import images_of, note_code, read_members, tables_of
from carpose.kaggle.submission import write_submission
from carpose.kaggle.tables import read_sample

from .combine import fuse
from .fitted import equal_fit, read_fit


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.fuse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="submission CSVs or Parquet tables of cars; without NAME= the file's stem is the name",
    )
    parser.add_argument("--fit", help="JSON of carpose.fuse.fit; without it all members count the same")
    parser.add_argument(
        "--sample",
        help="sample_submission.csv: the images of a CSV output and their order, instead of the inputs'",
    )
    parser.add_argument("--output", required=True, help="a submission (.csv) or a table of cars (.parquet)")
    args = parser.parse_args()
    if (suffix := Path(args.output).suffix) not in (".csv", ".parquet"):
        raise UserError(f"{args.output}: {suffix or 'no suffix'} is no format; name it .csv or .parquet")
    check_outputs(Path(args.output))
    members = read_members(args.inputs)
    note_code(members)
    fused = fuse(tables_of(members), read_fit(args.fit) if args.fit else equal_fit(members))
    image_ids = read_sample(args.sample) if args.sample else images_of(members)
    if suffix == ".csv":
        write_submission(args.output, fused, image_ids)
    else:
        cars.write(args.output, fused, image_ids=image_ids)
    before = sum(len(member.cars) for member in members.values())
    print(f"{args.output}: {len(fused)} cars from {before} of {len(members)} members")


if __name__ == "__main__":
    run_main(main)
