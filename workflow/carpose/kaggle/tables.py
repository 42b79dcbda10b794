"""The competition's CSV files → tables of cars, and what is wrong with them. `PredictionString` is read only
here."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import brief

LABEL = ["model_type", *cars.POSE]
PREDICTION = [*cars.POSE, "score"]
HEADER = ["ImageId", "PredictionString"]
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
FARTHEST = 1e4  # metres
ROUNDING = 1e-6  # what writing and reading numbers may add to a limit
SEVERITIES = ["error", "warning", "note"]


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


def stop_at_first(findings: list[Finding]) -> None:
    """Raises UserError with the first of them, and how many more there are."""
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise UserError(f"{findings[0]}{more}")


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
    stop_at_first(findings or invalid_poses(path, table, rows))
    return table, rows["ImageId"].tolist()


def read_sample(path: str | Path) -> list[str]:
    """The ImageIds of sample_submission.csv in order; its cars are none."""
    _, rows, findings = parse(path, PREDICTION)
    stop_at_first(findings)
    return rows["ImageId"].tolist()


def invalid_poses(path: str | Path, table: pd.DataFrame, rows: pd.DataFrame | None = None) -> list[Finding]:
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
    for line, image_id in table.loc[table["ImageId"].duplicated(), ["line", "ImageId"]].to_numpy():
        wrong(line, image_id, "the ImageId was there before", "keep one row per image")
    for line, image_id in table[["line", "ImageId"]].to_numpy():
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
                shown = brief(",".join(header))
                raise UserError(f"{path}, line 1: header {','.join(HEADER)} expected, found {shown!r}")
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
