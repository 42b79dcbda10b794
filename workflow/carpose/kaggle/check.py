"""Read a whole data folder once and say what is wrong with it, before hours are spent on it.

In: the competition's folder. Out: a table of findings, images.parquet (what each photo is, with its
perceptual hash and the digest of its bytes) and labels.parquet (the cars to learn from).
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.geometry import camera

from . import photos
from .findings import SEVERITIES, Finding
from .labels import check_labels
from .tables import LABEL, PLAIN_NAME, PREDICTION, parse

TABLES = {"train": ("train.csv", LABEL), "test": ("sample_submission.csv", PREDICTION)}
OFF_CENTRE = 0.15  # of the photo's side: the real principal point lies within 0.002


def check(
    folder: str | Path,
    exclude: Mapping[str, str] | None = None,
    max_depth: float = math.inf,
    max_depth_reason: str = "",
    jobs: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """Check everything in `folder`; every photo and mask is decoded once.

    exclude: {ImageId: reason}; max_depth: labels with a larger z (metres) are left out.
    Returns images.parquet's table, the labels of the used training images, and the findings, errors first.
    Where there is an error the tables are not fit for use.
    """
    folder, exclude = Path(folder), exclude or {}
    rows, labels, findings = _read_tables(folder)
    scanned = photos.scan(folder, rows, jobs)
    images = photos.images_table(rows, scanned, exclude)
    findings += photos.check_photos(folder, rows, scanned)
    findings += photos.count_masks(folder, images)
    findings += _check_camera(folder, images)
    findings += _unlisted(folder, rows)
    findings += _check_exclusions(folder, exclude, images)

    lines = rows[rows["split"] == "train"].set_index("ImageId")["line"]
    labels = labels[labels["ImageId"].isin(images.loc[images["excluded"] == "", "ImageId"])]
    far = labels["z"] > max_depth
    findings += check_labels(str(folder / "train.csv"), labels, lines, far, max_depth_reason)
    labels = labels[~far].reset_index(drop=True)
    findings = [_downgrade_excluded(finding, exclude) for finding in findings]
    findings += _nothing_left(folder, images, labels, findings)
    return images, labels, sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """(rows: split, line, ImageId; labels; findings). Names that are not plain never become a path."""
    findings, rows, labels = [], [], cars.empty(LABEL)
    for split, (name, fields) in TABLES.items():
        path = folder / name
        try:
            table, table_rows, table_findings = parse(path, fields)
        except UserError as error:
            findings.append(Finding("error", str(path), None, "", _message(error, path), "fix the file"))
            continue
        labels = table if split == "train" else labels
        findings += table_findings
        rows.append(table_rows.assign(split=split))
    rows = pd.concat(rows) if rows else pd.DataFrame(columns=["split", "line", "ImageId"])
    rows = rows[rows["ImageId"].map(lambda name: bool(PLAIN_NAME.fullmatch(name))).astype(bool)]
    rows = rows.drop_duplicates(["split", "ImageId"])
    for row in rows[rows["ImageId"].duplicated()].itertuples():
        path = str(folder / TABLES[row.split][0])
        text, advice = "is also in train.csv", "give it another name"
        findings.append(Finding("error", path, row.line, row.ImageId, text, advice))
    return rows.drop_duplicates("ImageId"), labels, findings


def _message(error: UserError, path: Path) -> str:
    return str(error).removeprefix(str(path)).lstrip(":, ")


def _check_camera(folder: Path, images: pd.DataFrame) -> list[Finding]:
    """The intrinsics must belong to the photos' size."""
    path = folder / "camera" / "camera_intrinsic.txt"
    try:
        intrinsics = camera.read_intrinsics(path)
    except UserError as error:
        return [Finding("error", str(path), None, "", _message(error, path), "fix the file")]
    sizes = images.loc[images["width"] > 0, ["width", "height"]]
    if sizes.empty:
        return []
    size = sizes.value_counts().index[0]
    off = np.abs(intrinsics[:2, 2] / size - 0.5)
    if off.max() < OFF_CENTRE:
        return []
    centre = f"cx, cy = {intrinsics[0, 2]:g}, {intrinsics[1, 2]:g}"
    finding = f"{centre} is far from the middle of photos of {photos.by(size)} pixels"
    return [Finding("error", str(path), None, "", finding, "give the intrinsics for photos of this size")]


def _unlisted(folder: Path, rows: pd.DataFrame) -> list[Finding]:
    """Photos on disk that no table names."""
    findings = []
    for split, (name, _) in TABLES.items():
        path = folder / f"{split}_images"
        listed = set(rows.loc[rows["split"] == split, "ImageId"] + ".jpg")
        more = [entry for entry in (os.listdir(path) if path.is_dir() else []) if entry not in listed]
        if more:
            finding = f"{len(more)} files that {name} does not name, such as {min(more)}"
            findings.append(Finding("note", str(path), None, "", finding, "nothing: they are not used"))
    return findings


def _check_exclusions(folder: Path, exclude: Mapping[str, str], images: pd.DataFrame) -> list[Finding]:
    findings, names = [], set(images["ImageId"])
    for image_id, reason in exclude.items():
        if image_id in names:
            findings.append(Finding("note", str(folder), None, image_id, f"excluded: {reason}", "nothing"))
        else:
            text, advice = "excluded, but not in the data", "correct the name or take it off the list"
            findings.append(Finding("warning", str(folder), None, image_id, text, advice))
    return findings


def _downgrade_excluded(finding: Finding, exclude: Mapping[str, str]) -> Finding:
    """Nothing wrong with an excluded image stops the work."""
    if finding.severity == "error" and finding.ImageId in exclude:
        return finding._replace(severity="note", advice=f"nothing: excluded, {exclude[finding.ImageId]}")
    return finding


def _nothing_left(
    folder: Path, images: pd.DataFrame, labels: pd.DataFrame, findings: list[Finding]
) -> list[Finding]:
    """Nothing to learn from or to predict, unless another error of the table says why."""
    tests = images[(images["split"] == "test") & (images["excluded"] == "")]
    explained = {finding.file for finding in findings if finding.severity == "error"}
    left = {"train": (labels, "car to learn from"), "test": (tests, "image to predict")}
    paths = {split: str(folder / name) for split, (name, _) in TABLES.items()}
    advice = "bring the whole file, or leave out less"
    return [
        Finding("error", paths[split], None, "", f"has no {what}", advice)
        for split, (table, what) in left.items()
        if table.empty and paths[split] not in explained
    ]
