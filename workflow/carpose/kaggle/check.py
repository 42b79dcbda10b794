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
from scipy.optimize import least_squares

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.geometry import camera

from . import photos
from .tables import FARTHEST, LABEL, PLAIN_NAME, PREDICTION, SEVERITIES, Finding, parse

COLUMNS = ["ImageId", "split", "width", "height", "has_mask", "phash", "digest", "excluded"]
TABLES = {"train": ("train.csv", LABEL), "test": ("sample_submission.csv", PREDICTION)}
OFF_CENTRE = 0.15  # of the photo's side: the real principal point lies within 0.002
OFF_ROAD, OFF_ROAD_METRES = 0.1, 2.0  # of the distance (the real labels keep to 0.015, 90 %), and at least


def check(
    folder: str | Path,
    exclude: Mapping[str, str] | None = None,
    max_depth: float = math.inf,
    max_depth_reason: str = "",
    jobs: int = 1,
    max_photos: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """Check everything in `folder`; every photo and mask is decoded once.

    exclude: {ImageId: reason}; max_depth: labels with a larger z (metres) are left out;
    max_photos: only the first so many images of either table that are not excluded are used (0: all), the
    others are as if no table named them.
    Returns images.parquet's table, the labels of the used training images, and the findings, errors first.
    Where there is an error the tables are not fit for use.
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
    findings += _unlisted(folder, listed)
    findings += _check_exclusions(folder, exclude, listed)

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
            advice = "nothing, for a trial run: its submission is not complete"
            findings.append(Finding("warning", str(folder / name), None, "", text, advice))
    return first, findings


def _message(error: UserError, path: Path) -> str:
    return str(error).removeprefix(str(path)).lstrip(":, ")


def _check_camera(folder: Path, images: pd.DataFrame) -> list[Finding]:
    """The intrinsics must belong to the photos' size."""
    path = camera.intrinsics_file(folder)
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
        unlisted = [entry for entry in (os.listdir(path) if path.is_dir() else []) if entry not in listed]
        if unlisted:
            finding = f"{len(unlisted)} files that {name} does not name, such as {min(unlisted)}"
            findings.append(Finding("note", str(path), None, "", finding, "nothing: they are not used"))
    return findings


def _check_exclusions(folder: Path, exclude: Mapping[str, str], rows: pd.DataFrame) -> list[Finding]:
    findings, names = [], set(rows["ImageId"])
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
    result, needed = [], {"train": (labels, "car to learn from"), "test": (tests, "image to predict")}
    for split, (table, kind) in needed.items():
        path, advice = str(folder / TABLES[split][0]), "bring the whole file, or leave out less"
        if table.empty and path not in explained:
            result.append(Finding("error", path, None, "", f"has no {kind}", advice))
    return result


def check_labels(
    path: str, labels: pd.DataFrame, lines: Mapping[str, int], far: pd.Series, reason: str
) -> list[Finding]:
    """Findings about cars: behind the camera, in another country, upside down, off the road.

    path: the file that they are from; lines: ImageId → its line; far: (cars,) bool, left out by rule, for
    this reason.
    """
    findings = []

    def report(severity: str, rows: pd.DataFrame, finding: str, advice: str):
        for car in rows.to_dict("records"):
            line, text = int(lines[car["ImageId"]]), finding.format(**car)
            findings.append(Finding(severity, path, line, car["ImageId"], text, advice))

    behind = "a car with z = {z:g} m, not in front of the camera"
    report("error", labels[labels["z"] <= 0], behind, "correct it")
    beyond = (labels[cars.POSITION].abs() > FARTHEST).any(axis=1)
    report("error", labels[beyond & ~far], "a car at x, y, z = {x:g}, {y:g}, {z:g} m", "correct it")
    turned = (labels[cars.ANGLES].abs() > 2 * np.pi).any(axis=1)
    angles = "a car with pitch, yaw, roll = {pitch:g}, {yaw:g}, {roll:g}, beyond a full turn"
    report("error", labels[turned & ~far], angles, "correct it: angles are radians")
    report("note", labels[far], "a car with z = {z:g} m is left out", reason or "nothing")
    upside_down = labels[labels["roll"].abs() < np.pi / 2]
    advice = "look at it: upside down or a wrong label"
    report("warning", upside_down, "a car with |roll| = {roll:.2f} below π/2", advice)
    kept = labels[~far & ~beyond]
    kept = kept.assign(above=_above_road(kept[cars.POSITION].to_numpy(float)))
    limit = np.maximum(OFF_ROAD_METRES, OFF_ROAD * np.linalg.norm(kept[cars.POSITION], axis=1))
    flying = kept["above"].abs() > limit
    above = "a car with z = {z:g} m is {above:+.1f} m above the common road"
    report("warning", kept[flying], above, "look at it: a wrong label or a steep road")
    return findings


def _above_road(xyz: np.ndarray) -> np.ndarray:
    """(N, 3) → (N,) metres above the plane y = a + b·x + c·z that fits all cars best (Huber loss, 0.5 m)."""
    if len(xyz) < 10:
        return np.zeros(len(xyz))
    design = np.column_stack([np.ones(len(xyz)), xyz[:, 0], xyz[:, 2]])
    fit = least_squares(lambda plane: design @ plane - xyz[:, 1], [1.5, 0, 0.1], loss="huber", f_scale=0.5)
    return design @ fit.x - xyz[:, 1]  # y points down
