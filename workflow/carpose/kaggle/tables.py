"""The competition's files: `PredictionString` exists only here.

In: train.csv, submissions. Out: tables of cars, a valid submission.csv. Its command line also reaches
kaggle_check, which reads a whole data folder.
"""

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import UserError, cars, rotation
from .files import atomic, brief, run_main
from .options import commands

LABEL = ["model_type", *cars.POSE]
PREDICTION = [*cars.POSE, "score"]
HEADER = ["ImageId", "PredictionString"]
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
FARTHEST = 1e4  # metres
ROUNDING = 1e-6  # what writing and reading numbers may add to a limit


class Finding(NamedTuple):
    """One thing seen in the data: severity error (cannot be worked with), warning or note."""

    severity: str
    file: str
    line: int | None
    ImageId: str
    finding: str
    advice: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        image = f", image {brief(self.ImageId)}" if self.ImageId else ""
        return f"{self.file}{line}{image}: {self.finding}; {self.advice}"


def read_labels(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """A file like train.csv → table of cars with model_type, and the ImageIds of all its rows.

    Raises UserError with file, line, ImageId and token at the first thing wrong.
    """
    table, rows, findings = parse(path, LABEL)
    stop_at_first(findings)
    return table, rows["ImageId"].tolist()


def read_submission(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """A submission → table of cars with score, and the ImageIds of all its rows, in order.

    Raises UserError with file, line, ImageId and token at the first thing wrong, or a car that `validate`
    objects to.
    """
    table, rows, findings = parse(path, PREDICTION)
    stop_at_first(findings or impossible(path, table, rows))
    return table, rows["ImageId"].tolist()


def read_sample(path: str | Path) -> list[str]:
    """The ImageIds of sample_submission.csv in order; its cars are none."""
    _, rows, findings = parse(path, PREDICTION)
    stop_at_first(findings)
    return rows["ImageId"].tolist()


def stop_at_first(findings: list[Finding]) -> None:
    """Raises UserError with the first of them, and how many more there are."""
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise UserError(f"{findings[0]}{more}")


def parse(path: str | Path, fields: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """Read all that can be read of a CSV of ImageId and PredictionString.

    fields: what the string repeats per car, LABEL or PREDICTION.
    Returns the table of cars (of all rows that are right), the table of rows (line, ImageId, cars: how
    many) and a finding of severity error for each row that is not right.
    Raises UserError where the file cannot be read at all or its header is another.
    """
    rows, findings = [], []

    def wrong(line, image_id, finding, advice):
        findings.append(Finding("error", str(path), line, image_id, finding, advice))

    for line, values in _csv_rows(path):
        if len(values) != 2:
            wrong(line, values[0], f"{len(values)} columns instead of 2", "write ImageId,PredictionString")
        else:
            rows.append((line, *values))

    table = pd.DataFrame(rows, columns=["line", *HEADER])
    for line, image_id in table.loc[table["ImageId"].duplicated(), ["line", "ImageId"]].itertuples(
        index=False
    ):
        wrong(line, image_id, "the ImageId was there before", "keep one row per image")
    for line, image_id in table[["line", "ImageId"]].itertuples(index=False):
        if not PLAIN_NAME.fullmatch(image_id):
            finding = f"ImageId {brief(image_id)!r} is not a plain name"
            wrong(line, image_id, finding, "use letters, digits, _ - .")

    tokens = [string.split() for string in table.pop("PredictionString")]
    numbers, bad = _numbers(tokens, fields)
    for row, finding in bad.items():
        wrong(table["line"][row], table["ImageId"][row], finding, "correct the row or take it out")
        tokens[row] = []
    table["cars"] = np.array([len(row) for row in tokens], int) // len(fields)

    result = pd.DataFrame(numbers, columns=fields)
    result.insert(0, "ImageId", table["ImageId"].repeat(table["cars"]).reset_index(drop=True).astype(str))
    if "model_type" in fields:
        result["model_type"] = result["model_type"].astype(int)
    return result, table, sorted(findings, key=lambda finding: finding.line)


def _csv_rows(path):
    """(line number, values) of each row after the header; blank lines are passed over."""
    rows, line = [], 1
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)  # else an open quotation mark takes all that follows
            header = next(reader, [])
            if header != HEADER:
                found = brief(",".join(header))
                raise UserError(f"{path}, line 1: header {','.join(HEADER)} expected, found {found!r}")
            line = reader.line_num + 1
            for row in reader:
                if row:
                    rows.append((line, row))
                line = reader.line_num + 1
            return rows
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is it the right folder?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a CSV text file ({error})") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; close or remove the quotation mark") from error


def _numbers(tokens, fields):
    """Tokens per row → (cars, fields) floats of the rows that are right, and {row: what is wrong}."""
    width = len(fields)
    bad = {
        row: f"{len(values)} numbers, which is not a multiple of {width} ({' '.join(fields)})"
        for row, values in enumerate(tokens)
        if len(values) % width
    }
    good = [row for row in range(len(tokens)) if row not in bad]
    try:
        numbers = np.array([token for row in good for token in tokens[row]], float).reshape(-1, width)
    except ValueError:
        numbers = None
    if numbers is None or not _right(numbers, fields).all():  # slow, but only once something is wrong
        bad |= {row: reason for row in good if (reason := _first_wrong(tokens[row], fields))}
        good = [row for row in good if row not in bad]
        numbers = np.array([token for row in good for token in tokens[row]], float).reshape(-1, width)
    return numbers, bad


def _right(numbers, fields):
    """(cars, fields) → bool: finite, and the model type a whole number that an int32 holds."""
    right = np.isfinite(numbers)
    if fields[0] == "model_type":
        right[:, 0] &= (numbers[:, 0] == np.floor(numbers[:, 0])) & (np.abs(numbers[:, 0]) < 2**31)
    return right


def _first_wrong(tokens, fields):
    for position, token in enumerate(tokens):
        car, field = divmod(position, len(fields))
        where = f"token {position + 1} ({fields[field]} of car {car + 1}) {brief(token)!r}"
        try:
            right = _right(np.array([[float(token)]]), fields[field:]).all()
        except ValueError:
            return f"{where} is not a number"
        if not right:
            return f"{where} is not {'a whole number' if fields[field] == 'model_type' else 'finite'}"
    return None


def write_submission(path: str | Path, table: pd.DataFrame, image_ids: Sequence[str]) -> None:
    """Write a submission: one row per image of `image_ids`, in that order, "" where there is no car.

    Cars go by descending score: should confidences be ignored, the order still says who is matched first.
    Angles are wrapped into [−π, π); nine digits keep a float32 exact.
    Raises UserError for cars of other images, poses that are not finite, scores outside [0, 1] and images
    named twice.
    """
    image_ids = pd.Index(image_ids)
    if image_ids.has_duplicates:
        raise UserError(f"{path}: image {image_ids[image_ids.duplicated()][0]} is asked for twice")
    values = table[PREDICTION].to_numpy(float, copy=True)
    values[:, :3] = rotation.wrap(values[:, :3])
    for bad, reason in (
        (~table["ImageId"].isin(image_ids).to_numpy(bool), "is not one of the images asked for"),
        (~np.isfinite(values).all(axis=1), "has a car that is not finite"),
        ((values[:, 6] < -ROUNDING) | (values[:, 6] > 1 + ROUNDING), "has a score outside [0, 1]"),
    ):
        if bad.any():
            raise UserError(f"{path}: not written, image {table['ImageId'].to_numpy()[bad][0]} {reason}")
    values[:, 6] = values[:, 6].clip(0, 1)

    order = np.argsort(-values[:, 6], kind="stable")
    strings = pd.Series([" ".join(map("{:.9g}".format, car)) for car in values[order].tolist()], dtype=object)
    strings = strings.groupby(table["ImageId"].to_numpy()[order]).agg(" ".join)
    rows = pd.DataFrame(
        {"ImageId": image_ids, "PredictionString": strings.reindex(image_ids, fill_value="").to_numpy()}
    )
    with atomic(path) as temporary:
        rows.to_csv(temporary, index=False)


def validate(path: str | Path, sample: str | Path) -> list[Finding]:
    """Everything wrong with a submission: an empty list says that it can be sent.

    sample: sample_submission.csv, which names the images and their order.
    Raises UserError where one of the two files cannot be read at all.
    """
    table, rows, findings = parse(path, PREDICTION)
    image_ids = read_sample(sample)

    def wrong(line, image_id, finding, advice):
        findings.append(Finding("error", str(path), line, image_id, finding, advice))

    line_of = dict(zip(rows["ImageId"], rows["line"], strict=True))
    known = set(image_ids)
    for image_id in image_ids:
        if image_id not in line_of:
            wrong(
                None, image_id, "the image is missing", "give it a row, with an empty string if it has no car"
            )
    for image_id, line in line_of.items():
        if image_id not in known:
            wrong(line, image_id, "the image is not in the sample", "take the row out")
    if not findings and rows["ImageId"].tolist() != image_ids:
        first = next(i for i, image_id in enumerate(image_ids) if rows["ImageId"][i] != image_id)
        line = rows["line"][first]
        wrong(
            line, image_ids[first], "the order differs from the sample from here on", "sort as the sample is"
        )

    return findings + impossible(path, table, rows)


def impossible(path: str | Path, table: pd.DataFrame, rows: pd.DataFrame | None = None) -> list[Finding]:
    """Predicted cars that cannot be sent, one finding per kind and image. rows: of `parse`, where the file
    has lines to name."""
    line_of = {} if rows is None else dict(zip(rows["ImageId"], rows["line"], strict=True))
    turned = (table[cars.ANGLES].abs() > np.pi + ROUNDING).any(axis=1)
    kinds = (
        (turned, "an angle is outside ±π", "wrap it"),
        (~table["score"].between(0, 1), "a score is outside [0, 1]", "scale the scores"),
        (table["z"] <= 0, "a car is not in front of the camera (z ≤ 0)", "take it out"),
        ((table[cars.POSITION].abs() > FARTHEST).any(axis=1), "a car is farther than 10 km", "take it out"),
    )
    return [
        Finding("error", str(path), line_of.get(image_id), image_id, finding, advice)
        for bad, finding, advice in kinds
        for image_id in table.loc[bad, "ImageId"].unique()
    ]


def _print_validation(path, sample) -> int:
    findings = validate(path, sample)
    for finding in findings:
        print(f"error: {finding}")
    if findings:
        return 1
    table, image_ids = read_submission(path)
    if table.empty:
        print(f"warning: {path}: there is no car in any of its images")
    print(
        f"{path}: valid, {len(image_ids)} images, {table['ImageId'].nunique()} of them with {len(table)} cars"
    )
    return 0


def _write(args) -> int:
    """Write submissions from a Parquet table of cars and validate what was written."""
    table, image_ids = cars.read(args.cars, scored=True), read_sample(args.sample)
    write_submission(args.output, table, image_ids)
    wrong = _print_validation(args.output, args.sample)
    if args.sure_output:
        if "sure" not in table:
            raise UserError(f"{args.cars}: no column sure; --sure-output is for what carpose.fuse writes")
        write_submission(args.sure_output, table[table["sure"]], image_ids)
        wrong |= _print_validation(args.sure_output, args.sample)
    return wrong


def main() -> int:
    from . import kaggle_check  # needs this module

    parser = argparse.ArgumentParser(
        description="The competition's files: check the data, write a submission."
    )
    command = commands(parser)
    text = "read a whole data folder once, report what is wrong (exit status 1 if it cannot be used)"
    kaggle_check.add_arguments(command("check", text, kaggle_check.run))
    validation = command(
        "validate",
        "check a submission (exit status 1 if it cannot be sent)",
        lambda args: _print_validation(args.file, args.sample),
    )
    validation.add_argument("file", help="submission CSV")
    validation.add_argument(
        "--sample", required=True, help="sample_submission.csv: the images and their order"
    )
    writing = command("write", "write a submission from a table of cars, and validate it", _write)
    writing.add_argument("cars", help="Parquet table of cars with score")
    writing.add_argument("--sample", required=True, help="sample_submission.csv: the images and their order")
    writing.add_argument("--output", required=True, help="the submission CSV to write")
    writing.add_argument(
        "--sure-output",
        help="another one, of those cars alone that are worth keeping where all confidences count the same",
    )
    args = parser.parse_args()
    return args.action(args)


if __name__ == "__main__":
    run_main(main)
