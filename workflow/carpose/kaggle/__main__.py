"""The competition's files: download its data, check a data folder, write a submission from a table of cars,
validate and submit it.

`download` and `submit` call the official client (pip install kaggle six), which needs credentials: a token
from https://www.kaggle.com/settings/api in KAGGLE_API_TOKEN or ~/.kaggle/access_token; for older clients
KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json. The competition's rules must be accepted on its
page.
"""

import argparse
from pathlib import Path

import pandas as pd

from carpose.config.options import add_options, from_options
from carpose.config.sections import Exclude
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main, write_text
from carpose.core.machine import core_count
from carpose.core.options import commands, int_at_least, program
from carpose.core.version import code_version

from .check import check
from .download import download
from .leaderboard import TEST_PHOTOS, submit
from .read import add_strict, read_order
from .submission import print_validation, write_submission
from .tables import SEVERITIES, Finding, pose_findings, read_submission, stop_or_note

LIMITS = ("max_depth", "max_depth_reason", "max_photos")  # of Exclude; its images are the option --exclude
MAX_PRINTED = 20  # findings of each severity; the table has them all


def main() -> int:
    parser = program("carpose.kaggle", __doc__)
    add = commands(parser)

    text = "read a complete data folder once and report what is wrong (exit status 1 if it cannot be used)"
    sub = add("check", text, check_folder)
    sub.add_argument("folder", type=Path, help="the competition's data folder")
    sub.add_argument("--findings", type=Path, help="write the table of findings to this CSV")
    sub.add_argument("--images", type=Path, help="write the table of images to this Parquet file")
    sub.add_argument("--labels", type=Path, help="write the cars to learn from to this Parquet file")
    sub.add_argument("--exclude", nargs="*", default=[], metavar="ID=REASON", help="images to leave out")
    add_options(sub, Exclude, LIMITS)
    sub.add_argument("--identity", help="a name of the data, only printed")
    sub.add_argument("--jobs", type=int_at_least(1), default=core_count(), help="number of processes")

    def validate_file(args: argparse.Namespace) -> int:
        return print_validation(args.file, read_order(args.sample, args.images), args.strict)

    sub = add("validate", "check a submission (exit status 1 if it is invalid)", validate_file)
    sub.add_argument("file", type=Path, help="submission CSV")
    add_order(sub)
    add_strict(sub)

    sub = add("write", "write a submission from a table of cars, and validate it", write)
    sub.add_argument("cars", type=Path, help="Parquet table of cars with score")
    add_order(sub)
    sub.add_argument("--output", type=Path, required=True, help="the submission CSV to write")

    def download_data(args: argparse.Namespace) -> None:
        download(args.folder, args.space)

    text = "download and unpack the competition's data; after an interruption the same command continues"
    sub = add("download", text, download_data)
    sub.add_argument("folder", type=Path, help="a folder that does not exist yet or is empty")
    sub.add_argument("--space", type=float, default=13.0, help="GB that must be free at the start")

    text = "send a submission to the leaderboard and record its scores; a file is never sent twice"
    sub = add("submit", text, send)
    sub.add_argument("file", type=Path, help="submission CSV")
    sub.add_argument("--message", help="description shown on Kaggle; default: the code's version")
    text = "CSV of all submissions and their scores; default: leaderboard.csv in the folder of the file"
    sub.add_argument("--record", type=Path, help=text)
    sub.add_argument("--timeout", type=int_at_least(0), default=600, help="seconds to wait for the scores")
    add_order(sub, required=False)
    args = parser.parse_args()
    return args.action(args)


def add_order(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options that give the images of a submission and their order."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--sample", help="sample_submission.csv: the images and their order")
    group.add_argument("--images", help="or images.parquet of the check, which has the same order")


def check_folder(args: argparse.Namespace) -> int:
    """Check the folder, print the findings, write the tables. Returns the exit status: 1 on an error."""
    limits = from_options(args, Exclude, LIMITS)
    exclude = {}
    for text in args.exclude:
        image_id, _, reason = text.partition("=")
        if not reason.strip():
            raise UserError(f"--exclude {text}: the reason is missing; write {image_id}=REASON")
        exclude[image_id] = reason.strip()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: is not a folder; name the competition's data folder")
    if args.identity:
        print(f"data {args.identity}")
    images, labels, findings = check(
        args.folder, exclude, limits.max_depth, limits.max_depth_reason, args.jobs, limits.max_photos
    )
    if args.findings:
        table = pd.DataFrame(findings, columns=Finding._fields).astype({"line": "Int64"})
        write_text(args.findings, table.to_csv(index=False))
    print_findings(images, labels, findings, args.findings)
    if any(finding.severity == "error" for finding in findings):
        return 1
    if args.images:
        parquet.write(args.images, images)
    if args.labels:
        used = (images["split"] == "train") & (images["excluded"] == "")
        cars.write(args.labels, labels, image_ids=images.loc[used, "ImageId"])
    return 0


def print_findings(
    images: pd.DataFrame, labels: pd.DataFrame, findings: list[Finding], path: Path | None
) -> None:
    """Print the first findings of each severity, errors last, then one line with the counts.

    path: the CSV of all findings, if there is one.
    """
    counts = []
    for severity in reversed(SEVERITIES):
        group = [finding for finding in findings if finding.severity == severity]
        counts.append(f"{len(group)} {severity}{'s' * (len(group) != 1)}")
        for finding in group[:MAX_PRINTED]:
            print(f"{severity}: {finding}")
        if len(group) > MAX_PRINTED:
            print(f"{severity}: … and {len(group) - MAX_PRINTED} more")
    used = images[images["excluded"] == ""]["split"].value_counts()
    print(
        f"{used.get('train', 0)} training images with {len(labels)} cars, {used.get('test', 0)} test images, "
        f"{(images['excluded'] != '').sum()} excluded; {', '.join(counts)}"
        + (f"; all in {path}" if path else "")
    )


def write(args: argparse.Namespace) -> int:
    """Write a submission from a Parquet table of cars and validate it. Returns the exit status."""
    table, image_ids = cars.read(args.cars, scored=True), read_order(args.sample, args.images)
    stop_or_note(pose_findings(args.cars, table))  # an invalid submission would stay there
    write_submission(args.output, table, image_ids)
    return print_validation(args.output, image_ids, strict=False)


def send(args: argparse.Namespace) -> int:
    """Validate a submission, then send it. Returns the exit status: 1 if it is invalid or Kaggle refuses."""
    if args.sample or args.images:
        image_ids = read_order(args.sample, args.images)
        if print_validation(args.file, image_ids, strict=False):
            return 1
    else:
        image_ids = read_submission(args.file)[1]
    if len(image_ids) != TEST_PHOTOS:
        text = f"has rows for {len(image_ids)} photos, the competition has {TEST_PHOTOS} test photos"
        raise UserError(f"{args.file}: {text}; send a submission for these")
    record = args.record or args.file.with_name("leaderboard.csv")
    check_outputs(record)
    return submit(args.file, args.message or f"carpose {code_version()}", record, args.timeout)


if __name__ == "__main__":
    run_main(main)
