"""Check a complete data folder before any training starts.

Input: the competition's folder. Output: a table of findings, images.parquet (a row per photo with its size,
perceptual hash and the digest of its bytes) and labels.parquet (the cars to learn from).
"""

import itertools
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
SWAPPED_OFF_CENTRE = 0.05  # from here on numbers that change places are looked for
FOCAL_LENGTHS = 0.1, 20  # of the photo's longer side; beyond, they are not in pixels
MAX_ASPECT = 1.1  # of a pixel; the data set's is 1.001
TYPICAL_DEPTH = 1, 500  # metres; the data set's median is 45
MIN_LABELS = 10  # cars that a statement about all of them needs
MAX_TILT = np.pi / 4  # radians of pitch; the data set's largest is 0.76
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
    findings += _check_camera(folder, images, labels)
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
            _refuse_special_file(path)
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
    rows = rows.drop_duplicates("ImageId")
    return rows, labels, findings + _check_case(folder, rows)


def _refuse_special_file(path: Path) -> None:
    """Raises UserError for a named pipe or a device, whose reader could wait for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path}: is not a file, but a pipe or a device")


def _check_case(folder: Path, rows: pd.DataFrame) -> list[Finding]:
    """ImageIds that differ in upper and lower case only."""
    findings, first = [], dict[str, str]()
    for row in rows.itertuples():
        earlier = first.setdefault(row.ImageId.casefold(), row.ImageId)
        if earlier != row.ImageId:
            text, advice = f"differs from {earlier} in case only", "some file systems take both for one file"
            file = str(folder / TABLES[row.split][0])
            findings.append(Finding("warning", file, row.line, row.ImageId, text, advice))
    return findings


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


def _check_camera(folder: Path, images: pd.DataFrame, labels: pd.DataFrame) -> list[Finding]:
    """The intrinsics must be of photos of this size, and show most of the labelled cars in them."""
    path = camera.intrinsics_file(folder)
    try:
        _refuse_special_file(path)
        intrinsics = camera.read_intrinsics(path)
    except UserError as error:
        return [Finding("error", str(path), None, "", _without_path(error, path), "fix the file")]
    sizes = images.loc[images["width"] > 0, ["width", "height"]]
    if sizes.empty:
        return []
    size = sizes.value_counts().index[0]
    if problem := _camera_problem(intrinsics, size):
        advice = "give the intrinsics for photos of this size, in pixels"
        return [Finding("error", str(path), None, "", problem, advice)]
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    findings = []
    if max(fx / fy, fy / fx) > MAX_ASPECT:
        text, advice = f"fx, fy = {fx:g}, {fy:g} differ", "check them: pixels are nearly always square"
        findings.append(Finding("warning", str(path), None, "", text, advice))
    return findings + _check_projection(str(folder / "train.csv"), labels, intrinsics, size)


def _camera_problem(intrinsics: np.ndarray, size: tuple[int, int]) -> str:
    """Why these intrinsics (3×3) cannot be of photos of this size (width, height); "" if they can."""

    def off_centre(x: float, y: float) -> float:
        return max(abs(x / size[0] - 0.5), abs(y / size[1] - 0.5))

    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    centre, photo = f"cx, cy = {cx:g}, {cy:g}", f"photos of {photos.size_text(size)} pixels"
    if (off := off_centre(cx, cy)) > SWAPPED_OFF_CENTRE:
        if off_centre(cy, cx) < off / 2:
            return f"{centre} are not the centre of {photo}: cx and cy seem to be swapped"
        if off_centre(fx, fy) < off / 2:
            text = f"{centre} are not the centre of {photo}, but fx, fy = {fx:g}, {fy:g} are"
            return f"{text}: fx and cx, and fy and cy, seem to be swapped"
    if off >= MAX_OFF_CENTRE:
        return f"{centre} is far from the centre of {photo}"
    low, high = (limit * max(size) for limit in FOCAL_LENGTHS)
    if not low <= min(fx, fy) <= max(fx, fy) <= high:
        return f"fx, fy = {fx:g}, {fy:g} are no focal lengths of {photo}"
    return ""


def _check_projection(
    path: str, labels: pd.DataFrame, intrinsics: np.ndarray, size: tuple[int, int]
) -> list[Finding]:
    """Most labelled cars must be inside their photos. path: the file of the labels; intrinsics: 3×3; size:
    width and height of the photos."""
    xyz = labels.loc[labels["z"] > 0, cars.POSITION].to_numpy(float)
    if len(xyz) < MIN_LABELS:
        return []
    uv = camera.project(intrinsics, xyz)
    inside = ((uv > -0.5) & (uv < np.array(size) - 0.5)).all(axis=1)
    if inside.mean() >= 0.5:
        return []
    text = (
        f"only {inside.sum()} of {len(xyz)} cars are inside their photos of {photos.size_text(size)} pixels"
    )
    advice = "check the order x y z (z forward, y down), the unit (metres), and the intrinsics"
    return [Finding("error", path, None, "", text, advice)]


def _check_unlisted(folder: Path, rows: pd.DataFrame) -> list[Finding]:
    """Files in the folders of photos and masks that are not in the tables."""
    findings = []
    for (split, (name, _)), content in itertools.product(TABLES.items(), ("images", "masks")):
        path = folder / f"{split}_{content}"
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
    if order := _order_of_angles(labels):
        text = f"the angles seem to be in the order {' '.join(order)}"
        advice = f"write each car as {' '.join(LABEL)}"
        findings.append(Finding("error", path, None, "", text, advice))
    else:
        advice = "check the label: the car is tilted by more than 45°"
        tilted = labels[(labels["pitch"].abs() > MAX_TILT) & ~beyond_full_turn]
        report("warning", tilted, "a car with pitch = {pitch:.2f}, beyond ±π/4", advice)
    low, high = TYPICAL_DEPTH
    if len(labels) >= MIN_LABELS and not low <= (median := labels["z"].median()) <= high:
        text = f"the median z of the cars is {median:g}"
        findings.append(Finding("error", path, None, "", text, "give x, y and z in metres"))
    if len(labels) >= MIN_LABELS and (share := (labels["y"] < 0).mean()) > 0.5:
        text = f"{share:.0%} of the cars are above the camera (y < 0)"
        findings.append(Finding("warning", path, None, "", text, "check the labels: y points down"))
    twice = labels[labels.duplicated(["ImageId", *cars.POSE])]
    report("warning", twice, "the car at z = {z:g} m occurs twice", "remove one of them")
    kept = labels[~far & ~beyond]
    kept = kept.assign(above=_above_road(kept[cars.POSITION].to_numpy(float)))
    limit = np.maximum(OFF_ROAD_METRES, OFF_ROAD * np.linalg.norm(kept[cars.POSITION], axis=1))
    off_road = kept["above"].abs() > limit
    above = "a car with z = {z:g} m is {above:+.1f} m above the common road"
    report("warning", kept[off_road], above, "check the label, unless the road is steep")
    return findings


def _order_of_angles(labels: pd.DataFrame) -> list[str]:
    """The order in which the angles seem to be written, where it is another than pitch, yaw, roll; [] if not.

    Cars on a road have a pitch near 0 and, by the data set's convention, a roll near ±π.
    """
    if len(labels) < MIN_LABELS:
        return []
    angles = labels[cars.ANGLES].abs()
    level, upright = (angles < MAX_TILT).mean(), (angles > np.pi - MAX_TILT).mean()
    if min(level["pitch"], upright["roll"]) > 0.8:
        return []
    orders = []
    for pitch, yaw, roll in itertools.permutations(cars.ANGLES):
        if min(level[pitch], upright[roll]) > 0.98:
            names = {pitch: "pitch", yaw: "yaw", roll: "roll"}
            orders.append([names[column] for column in cars.ANGLES])
    return orders[0] if len(orders) == 1 else []


def _above_road(xyz: np.ndarray) -> np.ndarray:
    """(N, 3) → (N,) metres above the plane y = a + b·x + c·z that fits all cars best (Huber loss, 0.5 m)."""
    if len(xyz) < 10:
        return np.zeros(len(xyz))
    design = np.column_stack([np.ones(len(xyz)), xyz[:, 0], xyz[:, 2]])
    fit = least_squares(lambda plane: design @ plane - xyz[:, 1], [1.5, 0, 0.1], loss="huber", f_scale=0.5)
    return design @ fit.x - xyz[:, 1]  # y points down
