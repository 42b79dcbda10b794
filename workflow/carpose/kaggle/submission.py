"""Tables of cars → the competition's CSV, and what would be refused."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import atomic

from .tables import HEADER, PREDICTION, ROUNDING, Finding, parse, pose_findings, print_notes


def write_submission(path: str | Path, table: pd.DataFrame, image_ids: Sequence[str]) -> None:
    """Write a submission: one row per image of `image_ids`, in that order, "" where there is no car.

    Cars go by descending score: should confidences be ignored, the order still says who is matched first.
    Angles are written as the table has them, since the leaderboard sees in which range; nine digits keep a
    float32 exact.
    Raises UserError for cars of other images, poses that are not finite, scores outside [0, 1] and images
    named twice.
    """
    image_ids = pd.Index(image_ids)
    if image_ids.has_duplicates:
        raise UserError(f"{path}: image {image_ids[image_ids.duplicated()][0]} is asked for twice")
    values = table[PREDICTION].to_numpy(float, copy=True)
    for bad, reason in (
        (~table["ImageId"].isin(image_ids).to_numpy(bool), "is not one of the images asked for"),
        (~np.isfinite(values).all(axis=1), "has a car that is not finite"),
        ((values[:, 6] < -ROUNDING) | (values[:, 6] > 1 + ROUNDING), "has a score outside [0, 1]"),
    ):
        if bad.any():
            raise UserError(f"{path}: not written, image {table['ImageId'].to_numpy()[bad][0]} {reason}")
    values[:, 6] = values[:, 6].clip(0, 1)

    order = np.argsort(-values[:, 6], kind="stable")
    strings = (" ".join(map("{:.9g}".format, car)) for car in values[order].tolist())
    _write(path, table["ImageId"].to_numpy()[order], strings, image_ids)


def write_labels(path: str | Path, table: pd.DataFrame, image_ids: Sequence[str]) -> None:
    """Write a file like train.csv: one row per image, its cars in the table's order, with six digits."""
    poses = table[cars.POSE].to_numpy(float).tolist()
    cars_ = zip(table["model_type"], poses, strict=True)
    strings = (f"{model_type} " + " ".join(map("{:.6g}".format, pose)) for model_type, pose in cars_)
    _write(path, table["ImageId"].to_numpy(), strings, image_ids)


def write_sample(path: str | Path, image_ids: Sequence[str]) -> None:
    """Write a file like sample_submission.csv: each image with the same made-up car."""
    _write(path, np.array(image_ids), ["0.5 0.5 0.5 0.0 0.0 0.0 1.0"] * len(image_ids), image_ids)


def _write(path: str | Path, owners: np.ndarray, strings: Iterable[str], image_ids: Sequence[str]) -> None:
    """One row per image of `image_ids`, with the strings of its cars; owners: the image of each."""
    by_image = pd.Series(list(strings), dtype=object).groupby(owners).agg(" ".join)
    content = by_image.reindex(image_ids, fill_value="").to_numpy()
    with atomic(path) as temporary:
        pd.DataFrame(dict(zip(HEADER, (image_ids, content), strict=True))).to_csv(temporary, index=False)


def validate(
    path: str | Path, image_ids: Sequence[str], strict: bool = True
) -> tuple[list[Finding], pd.DataFrame]:
    """Everything wrong with a submission (without an error it can be sent), and its cars.

    image_ids: the images that it must name, in this order. strict: what this project would not write is an
    error too, not a note, although the competition takes it: another order, a column of row numbers, angles
    beyond ±π and scores outside [0, 1]. Raises UserError where the file cannot be read.
    """
    image_ids = list(image_ids)
    table, rows, findings = parse(path, PREDICTION, strict)

    def wrong(line, image_id, finding, advice, severity="error"):
        findings.append(Finding(severity, str(path), line, image_id, finding, advice))

    line_of, expected = dict(zip(rows["ImageId"], rows["line"], strict=True)), set(image_ids)
    advice = "give it a row, with an empty string if it has no car"
    for image_id in image_ids:
        if image_id not in line_of:
            wrong(None, image_id, "the image is missing", advice)
    for image_id, line in line_of.items():
        if image_id not in expected:
            wrong(line, image_id, "the image is not in the sample", "take the row out")
    errors = any(finding.severity == "error" for finding in findings)
    if not errors and rows["ImageId"].tolist() != image_ids:
        moved = rows["ImageId"].to_numpy() != np.array(image_ids, object)
        first = int(np.argmax(moved))
        line, image_id = rows["line"][first], image_ids[first]
        if strict:
            wrong(line, image_id, "the order differs from the sample from here on", "sort as the sample is")
        else:
            text = f"{moved.sum()} rows in another order than the sample's, first here"
            wrong(line, rows["ImageId"][first], text, "taken as it is", "note")
    return findings + pose_findings(path, table, rows, strict), table


def print_validation(path: Path, image_ids: Sequence[str], strict: bool = True) -> int:
    """Everything wrong with a submission, or how many cars it has. Exit status 1 where something is wrong."""
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
