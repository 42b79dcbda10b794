"""Check a complete data folder before any training starts.

Input: the competition's folder. Output: a table of findings, images.parquet (a row per photo with its size,
perceptual hash and the digest of its bytes) and labels.parquet (the cars to learn from).
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.geometry import camera

from . import photos
from .tables import FARTHEST, LABEL, PLAIN_NAME, PREDICTION, SEVERITIES, Finding, parse

COLUMNS = ["ImageId", "split", "width", "height", "has_mask", "phash", "digest", "excluded"]
TABLES = {"train": ("train.csv", LABEL), "test": ("sample_submission.csv", PREDICTION)}
MAX_OFF_CENTRE = 0.15  # fraction of the photo's side; the data set's principal point is within 0.002
# A car is reported if it is more than max(2 m, 10 % of its distance) off the common road. 90 % of the data
# set's labels are within 1.5 %.
OFF_ROAD, OFF_ROAD_METRES = 0.1, 2.0


def check(
    folder: str | Path,
    exclude: Mapping[str, str] | None = None,
    max_depth: float = math.inf,
    max_depth_reason: str = "",
    jobs: int = 1,
    max_photos: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """Check everything in `folder`; every photo and mask is decoded once.

    exclude: {ImageId: reason}; max_depth: labels with a larger z (metres) are left out; max_depth_reason: for
    their findings; jobs: number of processes; max_photos: use only the first max_photos images of each table
    that are not excluded, and ignore the rest (0: all). Returns the table of images.parquet, the
    labels of the training images that are not excluded, and the findings, errors first.
    With an error the tables must not be used.
    """
    folder, exclude = Path(folder), exclude or {}
    listed, labels, findings = _read_tables(folder)
    rows, limited = _first_photos(folder, listed, exclude, max_photos)
    findings += limited
    scanned = photos.scan(folder, rows, jobs)
    reasons = [exclude.get(image_id, "") for image_id in scanned["ImageId"]]
    images = scanned.assign(excluded=pd.Series(reasons, dtype=object))[COLUMNS]
    findings += photos.check_photos(folder, scanned)
    findings += photos.count_masks(folder, images)
    findings += _check_camera(folder, images)
    findings += _check_unlisted(folder, listed)
    findings += _check_exclusions(folder, exclude, listed)

    lines = rows[rows["split"] == "train"].set_index("ImageId")["line"]
    labels = labels[labels["ImageId"].isin(images.loc[images["excluded"] == "", "ImageId"])]
    far = labels["z"] > max_depth
    findings += check_labels(str(folder / "train.csv"), labels, lines, far, max_depth_reason)
    labels = labels[~far].reset_index(drop=True)
    findings = [_downgrade_excluded(finding, exclude) for finding in findings]
    findings += _check_empty(folder, images, labels, findings)
    return images, labels, sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """(rows: split, line, ImageId; labels; findings). Invalid ImageIds are left out: none becomes a path."""
    findings, rows, labels = [], [], cars.empty(LABEL)
    for split, (name, fields) in TABLES.items():
        path = folder / name
        try:
            table, table_rows, table_findings = parse(path, fields)
        except UserError as error:
            text = _without_path(error, path)
            findings.append(Finding("error", str(path), None, "", text, "fix the file"))
            continue
        labels = table if split == "train" else labels
        findings += table_findings
        rows.append(table_rows.assign(split=split))
    rows = pd.concat(rows) if rows else pd.DataFrame(columns=["split", "line", "ImageId"])
    rows = rows[rows["ImageId"].map(lambda name: bool(PLAIN_NAME.fullmatch(name))).astype(bool)]
    rows = rows.drop_duplicates(["split", "ImageId"])
    for row in rows[rows["ImageId"].duplicated()].itertuples():
        file = str(folder / TABLES[row.split][0])
        text, advice = "is also in train.csv", "rename the image"
        findings.append(Finding("error", file, row.line, row.ImageId, text, advice))
    return rows.drop_duplicates("ImageId"), labels, findings


def _first_photos(
    folder: Path, rows: pd.DataFrame, exclude: Mapping[str, str], count: int
) -> tuple[pd.DataFrame, list[Finding]]:
    """(rows of the first `count` images of each split that are not excluded, a warning per table cut short);
    count 0: all rows."""
    if not count:
        return rows, []
    usable = rows[~rows["ImageId"].isin(exclude)]
    first = usable.groupby("split", sort=False).head(count)
    findings = []
    for split, (name, _) in TABLES.items():
        used, usable_count = ((table["split"] == split).sum() for table in (first, usable))
        if used < usable_count:
            text = f"only the first {used} of {usable_count} images are used (max_photos)"
            advice = "this is a trial run" + (", its submission is incomplete" if split == "test" else "")
            findings.append(Finding("warning", str(folder / name), None, "", text, advice))
    return first, findings


def _without_path(error: UserError, path: Path) -> str:
    return str(error).removeprefix(str(path)).lstrip(":, ")


def _check_camera(folder: Path, images: pd.DataFrame) -> list[Finding]:
    """The principal point must be near the centre of the photos."""
    path = camera.intrinsics_file(folder)
    try:
        intrinsics = camera.read_intrinsics(path)
    except UserError as error:
        return [Finding("error", str(path), None, "", _without_path(error, path), "fix the file")]
    sizes = images.loc[images["width"] > 0, ["width", "height"]]
    if sizes.empty:
        return []
    size = sizes.value_counts().index[0]
    off_centre = np.abs(intrinsics[:2, 2] / size - 0.5)
    if off_centre.max() < MAX_OFF_CENTRE:
        return []
    centre = f"cx, cy = {intrinsics[0, 2]:g}, {intrinsics[1, 2]:g}"
    finding = f"{centre} is far from the centre of photos of {photos.size_text(size)} pixels"
    return [Finding("error", str(path), None, "", finding, "give the intrinsics for photos of this size")]


def _check_unlisted(folder: Path, rows: pd.DataFrame) -> list[Finding]:
    """Files in the folders of photos that are not in the tables."""
    findings = []
    for split, (name, _) in TABLES.items():
        path = folder / f"{split}_images"
        listed = set(rows.loc[rows["split"] == split, "ImageId"] + ".jpg")
        unlisted = [entry for entry in (os.listdir(path) if path.is_dir() else []) if entry not in listed]
        if unlisted:
            finding = f"{len(unlisted)} files are not listed in {name}, such as {min(unlisted)}"
            findings.append(Finding("note", str(path), None, "", finding, "they are not used"))
    return findings


def _check_exclusions(folder: Path, exclude: Mapping[str, str], rows: pd.DataFrame) -> list[Finding]:
    findings, names = [], set(rows["ImageId"])
    for image_id, reason in exclude.items():
        if image_id in names:
            text = f"excluded: {reason}"
            findings.append(Finding("note", str(folder), None, image_id, text, "it is not used"))
        else:
            text, advice = "excluded, but not in the data", "correct the ImageId or remove it from the list"
            findings.append(Finding("warning", str(folder), None, image_id, text, advice))
    return findings


def _downgrade_excluded(finding: Finding, exclude: Mapping[str, str]) -> Finding:
    """Errors of excluded images become notes."""
    if finding.severity == "error" and finding.ImageId in exclude:
        advice = f"it is not used: excluded, {exclude[finding.ImageId]}"
        return finding._replace(severity="note", advice=advice)
    return finding


def _check_empty(
    folder: Path, images: pd.DataFrame, labels: pd.DataFrame, findings: list[Finding]
) -> list[Finding]:
    """An error per table that is left empty and has no error yet."""
    tests = images[(images["split"] == "test") & (images["excluded"] == "")]
    with_errors = {finding.file for finding in findings if finding.severity == "error"}
    result, needed = [], {"train": (labels, "car to learn from"), "test": (tests, "image to predict")}
    for split, (table, row) in needed.items():
        path, advice = str(folder / TABLES[split][0]), "use the complete file, or exclude less"
        if table.empty and path not in with_errors:
            result.append(Finding("error", path, None, "", f"has no {row}", advice))
    return result


def check_labels(
    path: str, labels: pd.DataFrame, lines: Mapping[str, int], far: pd.Series, reason: str
) -> list[Finding]:
    """Findings about cars: behind the camera, more than 10 km away, upside down, off the road.

    path: the file of the labels; lines: ImageId → line number; far: (cars,) bool, cars left out because of
    their depth; reason: for the findings of these.
    """
    findings = []

    def report(severity: str, rows: pd.DataFrame, finding: str, advice: str) -> None:
        for car in rows.to_dict("records"):
            line, text = int(lines[car["ImageId"]]), finding.format(**car)
            findings.append(Finding(severity, path, line, car["ImageId"], text, advice))

    behind = "a car with z = {z:g} m is not in front of the camera"
    report("error", labels[labels["z"] <= 0], behind, "correct the label")
    beyond = (labels[cars.POSITION].abs() > FARTHEST).any(axis=1)
    too_far = "a car at x, y, z = {x:g}, {y:g}, {z:g} m is farther than 10 km"
    report("error", labels[beyond & ~far], too_far, "correct the label")
    beyond_full_turn = (labels[cars.ANGLES].abs() > 2 * np.pi).any(axis=1)
    angles = "a car with pitch, yaw, roll = {pitch:g}, {yaw:g}, {roll:g}, beyond a full turn"
    report("error", labels[beyond_full_turn & ~far], angles, "correct the label: angles are radians")
    report("note", labels[far], "a car with z = {z:g} m is left out", reason or "see max_depth")
    upside_down = labels[labels["roll"].abs() < np.pi / 2]
    advice = "check the label: the car is upside down"
    report("warning", upside_down, "a car with roll = {roll:.2f}, between −π/2 and π/2", advice)
    kept = labels[~far & ~beyond]
    kept = kept.assign(above=_above_road(kept[cars.POSITION].to_numpy(float)))
    limit = np.maximum(OFF_ROAD_METRES, OFF_ROAD * np.linalg.norm(kept[cars.POSITION], axis=1))
    off_road = kept["above"].abs() > limit
    above = "a car with z = {z:g} m is {above:+.1f} m above the common road"
    report("warning", kept[off_road], above, "check the label, unless the road is steep")
    return findings


def _above_road(xyz: np.ndarray) -> np.ndarray:
    """(N, 3) → (N,) metres above the plane y = a + b·x + c·z that fits all cars best (Huber loss, 0.5 m)."""
    if len(xyz) < 10:
        return np.zeros(len(xyz))
    design = np.column_stack([np.ones(len(xyz)), xyz[:, 0], xyz[:, 2]])
    fit = least_squares(lambda plane: design @ plane - xyz[:, 1], [1.5, 0, 0.1], loss="huber", f_scale=0.5)
    return design @ fit.x - xyz[:, 1]  # y points down
