"""Writers of the competition's CSV files, and the validation of a submission."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import atomic

from .tables import HEADER, PREDICTION, ROUNDING, Finding, parse, pose_findings, print_notes


def write_submission(path: str | Path, table: pd.DataFrame, image_ids: Sequence[str]) -> None:
    """Write a submission: one row per image of `image_ids`, in this order, with "" for no car.

    Cars are sorted by descending score, so that a metric that ignores scores still matches the best first.
    Angles are not wrapped, because the leaderboard's metric depends on their range. Nine digits keep a
    float32 exact.
    Raises UserError for cars of other images, values that are not finite, scores outside [0, 1] and
    duplicate images.
    """
    index = pd.Index(image_ids)
    if index.has_duplicates:
        duplicate = index[index.duplicated()][0]
        raise UserError(f"{path}: not written, image {duplicate} occurs twice in the list of images")
    values = table[PREDICTION].to_numpy(float, copy=True)
    for bad, reason in (
        (~table["ImageId"].isin(index).to_numpy(bool), "is not in the list of images"),
        (~np.isfinite(values).all(axis=1), "has a car with a value that is not finite"),
        ((values[:, 6] < -ROUNDING) | (values[:, 6] > 1 + ROUNDING), "has a score outside [0, 1]"),
    ):
        if bad.any():
            raise UserError(f"{path}: not written, image {table['ImageId'].to_numpy()[bad][0]} {reason}")
    values[:, 6] = values[:, 6].clip(0, 1)

    order = np.argsort(-values[:, 6], kind="stable")
    strings = (" ".join(map("{:.9g}".format, car)) for car in values[order].tolist())
    _write(path, table["ImageId"].to_numpy()[order], strings, index)


def write_labels(path: str | Path, table: pd.DataFrame, image_ids: Sequence[str]) -> None:
    """Write a file like train.csv: one row per image of `image_ids`, cars in the table's order, six digits.

    table: cars with model_type.
    """
    poses = table[cars.POSE].to_numpy(float).tolist()
    typed_poses = zip(table["model_type"], poses, strict=True)
    strings = (f"{model_type} " + " ".join(map("{:.6g}".format, pose)) for model_type, pose in typed_poses)
    _write(path, table["ImageId"].to_numpy(), strings, image_ids)


def write_sample(path: str | Path, image_ids: Sequence[str]) -> None:
    """Write a file like sample_submission.csv: every image has the same dummy car."""
    _write(path, np.array(image_ids), ["0.5 0.5 0.5 0.0 0.0 0.0 1.0"] * len(image_ids), image_ids)


def _write(
    path: str | Path, image_of_car: np.ndarray, strings: Iterable[str], image_ids: Sequence[str]
) -> None:
    """One row per image of `image_ids` with the strings of its cars; image_of_car: ImageId of each string."""
    by_image = pd.Series(list(strings), dtype=object).groupby(image_of_car).agg(" ".join)
    content = by_image.reindex(image_ids, fill_value="").to_numpy()
    with atomic(path) as temporary:
        pd.DataFrame(dict(zip(HEADER, (image_ids, content), strict=True))).to_csv(temporary, index=False)


def validate(
    path: str | Path, image_ids: Sequence[str], strict: bool = True
) -> tuple[list[Finding], pd.DataFrame]:
    """The findings about a submission, which is valid if none is an error, and its cars.

    image_ids: the images that it must have rows for, in this order. strict: what the competition accepts but
    this project does not write is an error instead of a note: another order, a column of row numbers, angles
    beyond ±π and scores outside [0, 1]. Raises UserError where the file cannot be read.
    """
    image_ids = list(image_ids)
    table, rows, findings = parse(path, PREDICTION, strict)

    def report(line: int | None, image_id: str, finding: str, advice: str, severity: str = "error") -> None:
        findings.append(Finding(severity, str(path), line, image_id, finding, advice))

    line_of, expected = dict(zip(rows["ImageId"], rows["line"], strict=True)), set(image_ids)
    advice = "add a row, with an empty string if the image has no car"
    for image_id in image_ids:
        if image_id not in line_of:
            report(None, image_id, "the image is missing", advice)
    for image_id, line in line_of.items():
        if image_id not in expected:
            report(line, image_id, "the image is not in the sample", "remove the row")
    errors = any(finding.severity == "error" for finding in findings)
    if not errors and rows["ImageId"].tolist() != image_ids:
        moved = rows["ImageId"].to_numpy() != np.array(image_ids, object)
        first = int(np.argmax(moved))
        line, image_id = rows["line"][first], image_ids[first]
        if strict:
            text = f"the order differs from here on: the sample has {image_id} here"
            report(line, rows["ImageId"][first], text, "sort the rows as in the sample")
        else:
            text = f"{moved.sum()} rows in another order than the sample's, first here"
            report(line, rows["ImageId"][first], text, "the competition accepts any order", "note")
    return findings + pose_findings(path, table, rows, strict), table


def print_validation(path: Path, image_ids: Sequence[str], strict: bool = True) -> int:
    """Print the findings about a submission, or how many cars it has. Returns the exit status: 1 if it is
    invalid."""
    findings, table = validate(path, image_ids, strict)
    print_notes(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in errors:
        print(f"error: {finding}")
    if errors:
        return 1
    if table.empty:
        print(f"warning: {path}: there is no car in any of its images")
    with_cars = table["ImageId"].nunique()
    print(f"{path}: valid, {len(image_ids)} images, {with_cars} of them with {len(table)} cars")
    return 0
