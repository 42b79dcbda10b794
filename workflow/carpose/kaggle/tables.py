"""Readers of the competition's CSV files, which report every error. `PredictionString` is read only here."""

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import quoted, truncate

LABEL = ["model_type", *cars.POSE]
PREDICTION = [*cars.POSE, "score"]
HEADER = ["ImageId", "PredictionString"]
ROW_NUMBERS = ["", "Unnamed: 0"]  # pandas' header of an index column, when written and when read again
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
FARTHEST = 1e4  # metres; a larger x, y or z is an error
ROUNDING = 1e-6  # tolerance of limits for numbers that were rounded when written
SEVERITIES = ["error", "warning", "note"]


class Finding(NamedTuple):
    """One result of a check. severity: error (the data cannot be used), warning or note; line: None for a
    finding about a file; ImageId: "" for one about no image; advice: what to do, or what happens."""

    severity: str
    file: str
    line: int | None
    ImageId: str
    finding: str
    advice: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        image = f", image {truncate(self.ImageId)}" if self.ImageId else ""
        return f"{self.file}{line}{image}: {self.finding}; {self.advice}"


def stop_or_note(findings: list[Finding]) -> None:
    """Raises UserError with the first error and the number of others. Without an error, prints the notes."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        count = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{count}")
    print_notes(findings)


def print_notes(findings: list[Finding]) -> None:
    """One line on stderr for each finding of severity note."""
    for finding in findings:
        if finding.severity == "note":
            print(f"note: {finding}", file=sys.stderr)


def read_labels(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """A file like train.csv → table of cars with model_type, and the ImageIds of all its rows.

    Raises UserError with file, line, ImageId and token of the first error.
    """
    table, rows, findings = parse(path, LABEL)
    stop_or_note(findings)
    return table, rows["ImageId"].tolist()


def read_submission(path: str | Path, strict: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """A submission → table of cars with score, all numbers as written, and the ImageIds of all its rows.

    Raises UserError with file, line, ImageId and token of the first error, also where `validate` finds a car
    invalid. What the competition accepts but this project does not write is a note on stderr, or an error if
    strict: an angle beyond ±π, a score outside [0, 1], a column of row numbers.
    """
    table, rows, findings = parse(path, PREDICTION, strict)
    stop_or_note(findings + pose_findings(path, table, rows, strict))
    return table, rows["ImageId"].tolist()


def read_sample(path: str | Path) -> list[str]:
    """The ImageIds of sample_submission.csv in order. Its dummy cars are not checked.

    Raises UserError with file, line, ImageId and token of the first error.
    """
    _, rows, findings = parse(path, PREDICTION)
    stop_or_note(findings)
    return rows["ImageId"].tolist()


def pose_findings(
    path: str | Path, table: pd.DataFrame, rows: pd.DataFrame | None = None, strict: bool = True
) -> list[Finding]:
    """Findings about invalid predicted cars: an error per check and image.

    strict: if not, what the competition accepts is one note per check instead. rows: of `parse`, with the
    line numbers of a CSV; None for a Parquet table.
    """
    line_of = {} if rows is None else dict(zip(rows["ImageId"], rows["line"], strict=True))
    score, (low, high) = table["score"], score_range(table["score"])
    is_degrees = (table[cars.ANGLES].abs() > 2 * np.pi).any(axis=None)
    kept = "it is kept as written" + (", but is it in degrees?" if is_degrees else "")
    scaled = f"only the order counts: {low:.6g} … {high:.6g} is scaled to 0 … 1 for the fusion"
    findings = []

    def report(bad: pd.Series, finding: str, advice: str, accepted: str = "") -> None:
        image_ids = table.loc[bad, "ImageId"]
        if accepted and not strict and len(image_ids):
            first, plural = image_ids.iloc[0], "s" * (len(image_ids) > 1)
            text = f"{len(image_ids)} car{plural}, first here: {finding}"
            findings.append(Finding("note", str(path), line_of.get(first), first, text, accepted))
            return
        for image_id in image_ids.unique():
            findings.append(Finding("error", str(path), line_of.get(image_id), image_id, finding, advice))

    if rows is not None:  # tables of carpose.fuse have angles in the range of the labels
        first = table["pitch"]
        if is_degrees and (first == first.round()).all() and (first > 2 * np.pi).any():
            text = "the first number of every car is a whole one, as the model_type of labels"
            report(first.index == 0, text, f"write each car as {' '.join(PREDICTION)}")
        report(beyond_half_turn(table).any(axis=1), "an angle is outside ±π", "wrap it to ±π", kept)
    report(~score.between(0, 1), "a score is outside [0, 1]", "scale the scores", scaled)
    report(table["z"] <= 0, "a car is not in front of the camera (z ≤ 0)", "remove the car")
    beyond = (table[cars.POSITION].abs() > FARTHEST).any(axis=1)
    report(beyond, "a car is farther than 10 km", "remove the car")
    return findings


def beyond_half_turn(table: pd.DataFrame) -> pd.DataFrame:
    """Table of N cars → (N, 3) bool: which angles are outside ±π."""
    return table[cars.ANGLES].abs() > np.pi + ROUNDING


def score_range(scores: pd.Series) -> tuple[float, float]:
    """The smallest range that holds all scores and [0, 1]."""
    return min(scores.min(), 0.0) if len(scores) else 0.0, max(scores.max(), 1.0) if len(scores) else 1.0


def parse(
    path: str | Path, fields: list[str], strict: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """Read all valid rows of a CSV of ImageId and PredictionString.

    fields: of each car in the string, LABEL or PREDICTION; strict: refuse a column of row numbers. Returns
    the table of cars of the valid rows, the table of rows (line, ImageId, cars: their number) and the
    findings: an error for each invalid row, a note for a column of row numbers.
    Raises UserError where the file cannot be read as CSV or has another header.
    """
    rows, findings = [], []
    numbered, content = _csv_rows(path, strict)
    if numbered:
        text = f"{len(content)} rows with a column of row numbers"
        findings.append(Finding("note", str(path), 1, "", text, "the column is ignored"))

    def report(line: int, image_id: str, finding: str, advice: str) -> None:
        findings.append(Finding("error", str(path), line, image_id, finding, advice))

    for line, values in content:
        if len(values) != 2 + numbered:
            image_id = values[min(numbered, len(values) - 1)]
            text, advice = (
                f"{len(values)} columns instead of {2 + numbered}",
                "write ImageId,PredictionString",
            )
            report(line, image_id, text, advice)
        else:
            rows.append((line, *values[numbered:]))

    table = pd.DataFrame(rows, columns=["line", *HEADER])
    for line, image_id in table.loc[table["ImageId"].duplicated(), ["line", "ImageId"]].to_numpy():
        report(line, image_id, "the ImageId occurs twice", "keep one row per image")
    for line, image_id in table[["line", "ImageId"]].to_numpy():
        if not PLAIN_NAME.fullmatch(image_id):
            finding = f"invalid ImageId {quoted(image_id)}"
            report(line, image_id, finding, "use letters, digits, _ - and ., first no - or .")

    # Not split() alone, which takes a no-break space for a blank.
    tokens = [
        string.split() if string.isascii() else re.split(r"[ \t\n\r]+", string.strip(" \t\n\r"))
        for string in table.pop("PredictionString")
    ]
    numbers, errors = _numbers(tokens, fields)
    for row, finding in errors.items():
        report(table["line"][row], table["ImageId"][row], finding, "correct or remove the row")
        tokens[row] = []
    table["cars"] = np.array([len(row) for row in tokens], int) // len(fields)

    result = pd.DataFrame(numbers, columns=fields)
    result.insert(0, "ImageId", table["ImageId"].repeat(table["cars"]).reset_index(drop=True).astype(str))
    if "model_type" in fields:
        result["model_type"] = result["model_type"].astype(int)
    return result, table, sorted(findings, key=lambda finding: finding.line or 0)


def _csv_rows(path: str | Path, strict: bool) -> tuple[bool, list[tuple[int, list[str]]]]:
    """Whether there is a column of row numbers, and (line number, values) of each row after the header. Blank
    lines are skipped."""
    rows, line = [], 1
    csv.field_size_limit(2**31 - 1)  # a photo may have more cars than fit into Python's limit of 128 kB
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)  # strict: an open quotation mark is an error
            header = next(reader, [])
            numbered = not strict and header[1:] == HEADER and header[0] in ROW_NUMBERS
            if header != HEADER and not numbered:
                shown = truncate(",".join(header))
                raise UserError(f"{path}, line 1: header {','.join(HEADER)} expected, found {shown!r}")
            line = reader.line_num + 1
            for row in reader:
                if row:
                    rows.append((line, row))
                line = reader.line_num + 1
            return numbered, rows
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is it the right folder?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a CSV text file ({error})") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; close or remove the quotation mark") from error


def _numbers(tokens: list[list[str]], fields: list[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Tokens per row → (cars, fields) floats of the valid rows, and {row: error message}."""
    width = len(fields)
    errors = {
        row: f"{len(values)} numbers, which is not a multiple of {width} ({' '.join(fields)})"
        for row, values in enumerate(tokens)
        if len(values) % width
    }
    valid = [row for row in range(len(tokens)) if row not in errors]
    try:
        numbers = np.array([token for row in valid for token in tokens[row]], float).reshape(-1, width)
    except ValueError:
        numbers = None
    plain = all(_is_plain("".join(tokens[row])) for row in valid)
    if not plain or numbers is None or not _is_valid(numbers, fields).all():  # slow, so only for an error
        errors |= {row: message for row in valid if (message := _first_error(tokens[row], fields))}
        valid = [row for row in valid if row not in errors]
        numbers = np.array([token for row in valid for token in tokens[row]], float).reshape(-1, width)
    return numbers, errors


def _is_plain(token: str) -> bool:
    """Whether a number may be written so: float also takes 2_0, Arabic digits and no-break spaces."""
    return token.isascii() and "_" not in token


def _is_valid(numbers: np.ndarray, fields: list[str]) -> np.ndarray:
    """(cars, fields) → bool: finite, and the model type an integer that an int32 holds."""
    valid = np.isfinite(numbers)
    if fields[0] == "model_type":
        valid[:, 0] &= (numbers[:, 0] == np.floor(numbers[:, 0])) & (np.abs(numbers[:, 0]) < 2**31)
    return valid


def _first_error(tokens: list[str], fields: list[str]) -> str | None:
    """The message for the first invalid token of a row; None if all are valid."""
    for position, token in enumerate(tokens):
        car, field = divmod(position, len(fields))
        where = f"token {position + 1} ({fields[field]} of car {car + 1}) {quoted(token)}"
        if not _is_plain(token):
            return f"{where} is not a number of the digits 0 to 9"
        try:
            valid = _is_valid(np.array([[float(token)]]), fields[field:]).all()
        except ValueError:
            comma = re.fullmatch(r"[-+]?\d*,\d+(e[-+]?\d+)?", token, re.I)
            return f"{where} is not a number" + (": write a decimal point" if comma else "")
        if not valid:
            return f"{where} is not {'an integer' if fields[field] == 'model_type' else 'finite'}"
    return None
