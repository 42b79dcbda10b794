"""One table that compares all models, rounds and the fused result by the metric.

In: labels, folds and tables of out-of-fold cars (and of test cars where the truth is known). Out:
evaluation.csv, sorted by mAP, and a table by bands of depth. mAP is of all cars with their confidences; sd is
its standard deviation over resamples of the photos (not over seeds); mAP_leaderboard is of the metric's mode
leaderboard, of the cars above the fusion's threshold, or for a single model of the cars with a score of at
least `threshold`. Out-of-fold scores are means over the folds, each scored alone.
"""

from pathlib import Path

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import run_main, write_text
from carpose.core.options import NAME_PATHS, int_at_least, program
from carpose.kaggle import read

from .scores import SAMPLES, evaluate


def main() -> None:
    parser = program("carpose.evaluation", __doc__)
    parser.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    parser.add_argument("--folds", type=Path, required=True, help="folds.parquet: which images are evaluated")
    parser.add_argument("--members", **NAME_PATHS, default=[], help="Parquet tables of out-of-fold cars")
    parser.add_argument("--test-truth", type=Path, help="true cars of the test images: CSV or Parquet")
    parser.add_argument("--test-members", **NAME_PATHS, default=[], help="Parquet tables of test cars")
    parser.add_argument("--images", type=Path, help="images.parquet of the check: the test images")
    parser.add_argument("--output", type=Path, required=True, help="evaluation.csv to write")
    parser.add_argument("--bands-output", type=Path, help="CSV of recall and depth error by depth z")
    parser.add_argument("--samples", type=int_at_least(2), default=SAMPLES, help="resamples of the photos")
    args = parser.parse_args()
    if not args.members and not args.test_members:
        raise UserError("nothing to evaluate: give --members or --test-members")
    if args.test_members and not (args.test_truth and args.images):
        raise UserError("--test-members need --test-truth and --images")

    labels, folds = cars.read(args.labels), parquet.read_folds(args.folds)
    members, test_members = read.read_members(args.members), read.read_members(args.test_members)
    read.check_out_of_fold(members, folds)
    read.check_same_photos(args.labels, labels, folds["ImageId"])
    truth = read.read_truth(args.test_truth) if test_members else None
    test_ids: list[str] = []  # excluded photos count as well: their cars are missed
    if test_members:
        test_ids, predicted_ids = read.split_test_images(args.images)
        read.check_coverage(test_members, predicted_ids)
        read.check_same_photos(args.test_truth, truth, test_ids)
    test = truth, test_ids, read.tables_of(test_members)
    table, bands = evaluate(labels, folds, read.tables_of(members), *test, args.samples)
    write_text(args.output, table.to_csv(index=False))
    if args.bands_output:
        write_text(args.bands_output, bands.to_csv(index=False))
    print(table.to_string(index=False, float_format="{:.4f}".format, na_rep="–"))
    best = bands[bands["name"] == table["name"][0]]
    print(f"\n{table['name'][0]} by depth z:")
    print(best.drop(columns="name").to_string(index=False, float_format="{:.3f}".format, na_rep="–"))


if __name__ == "__main__":
    run_main(main)
