"""Fusion of the cars of several models (or submission files) into one table.

In: tables of cars with score, one per member, and the fit of carpose.fuse.fit (or none: equal weights).
Out: a table of cars with score and depth_sigma, as Parquet or as a submission CSV.
"""

from pathlib import Path

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.core.options import NAMED, program
from carpose.kaggle.read import check_coverage, images_of, read_members, tables_of
from carpose.kaggle.submission import write_submission
from carpose.kaggle.tables import read_sample

from .combine import fuse
from .fitted import read_fit


def main() -> None:
    parser = program("carpose.fuse", __doc__)
    parser.add_argument("--inputs", required=True, **NAMED, help="submissions (.csv) or tables (.parquet)")
    parser.add_argument("--fit", help="JSON of carpose.fuse.fit; without it all members count the same")
    text = "sample_submission.csv: the photos of a CSV output and their order, instead of the inputs'"
    parser.add_argument("--sample", help=text)
    parser.add_argument("--output", required=True, help="a submission (.csv) or a table of cars (.parquet)")
    args = parser.parse_args()
    if (suffix := Path(args.output).suffix) not in (".csv", ".parquet"):
        raise UserError(f"{args.output}: {suffix or 'no suffix'} is no format; name it .csv or .parquet")
    if args.sample and suffix != ".csv":
        raise UserError(f"--sample {args.sample}: is for a submission; name the output .csv")
    check_outputs(Path(args.output))
    sample = read_sample(args.sample) if args.sample else None
    members = read_members(args.inputs)
    image_ids = images_of(members)
    check_coverage(members, image_ids)
    fused = fuse(tables_of(members), read_fit(args.fit) if args.fit else None)
    if suffix == ".csv":
        write_submission(args.output, fused, sample or image_ids)
    else:
        cars.write(args.output, fused, image_ids=image_ids)
    before = sum(len(member.cars) for member in members.values())
    print(f"{args.output}: {len(fused)} cars from {before} of {len(members)} members")


if __name__ == "__main__":
    run_main(main)
