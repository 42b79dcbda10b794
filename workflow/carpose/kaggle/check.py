"""Read a whole data folder once and say what is wrong with it, before hours are spent on it.

In: the competition's folder. Out: a table of findings, images.parquet (what each photo is, with its
perceptual hash) and labels.parquet (the cars to learn from).
"""

import argparse
import io
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from scipy.optimize import least_squares
from tqdm import tqdm

from . import UserError, camera, cars
from .files import atomic
from .kaggle import FARTHEST, LABEL, PLAIN_NAME, PREDICTION, Finding, parse
from .options import whole

TABLES = {"train": ("train.csv", LABEL), "test": ("sample_submission.csv", PREDICTION)}
OFF_ROAD = 0.1  # of the distance: the real labels keep to 0.015 (90 %)
OFF_ROAD_METRES = 2.0
OFF_CENTRE = 0.15  # of the photo's side: the real principal point lies within 0.002
SEVERITIES = ["error", "warning", "note"]
SHOWN = 20  # findings of each severity in the terminal; the table has them all


class Picture(NamedTuple):
    """What one file is: size in pixels, hash of a photo, or why it cannot be used ("" = it can)."""

    width: int = 0
    height: int = 0
    phash: str = ""
    problem: str = ""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def check(
    folder: str | Path,
    exclude: dict[str, str] | None = None,
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
    photos = _scan(folder, rows, jobs)
    images = _images(folder, rows, photos, exclude, findings)
    findings += _check_camera(folder, images)
    findings += _unlisted(folder, rows)
    findings += _check_exclusions(folder, exclude, images)

    lines = rows[rows["split"] == "train"].set_index("ImageId")["line"]
    labels = labels[labels["ImageId"].isin(images.loc[images["excluded"] == "", "ImageId"])]
    far = labels["z"] > max_depth
    findings += _check_cars(str(folder / "train.csv"), labels, lines, far, max_depth_reason)
    labels = labels[~far].reset_index(drop=True)
    findings = [_relieve(finding, exclude) for finding in findings]
    findings += _nothing_left(folder, images, labels, findings)
    return images, labels, sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _read_tables(folder):
    """(rows: split, line, ImageId; labels; findings). Names that are not plain never become a path."""
    findings, rows, labels = [], [], cars.empty(LABEL)
    for split, (name, fields) in TABLES.items():
        path = folder / name
        try:
            table, table_rows, found = parse(path, fields)
        except UserError as error:
            findings.append(Finding("error", str(path), None, "", _message(error, path), "mend the file"))
            continue
        labels = table if split == "train" else labels
        findings += found
        rows.append(table_rows.assign(split=split))
    rows = pd.concat(rows) if rows else pd.DataFrame(columns=["split", "line", "ImageId"])
    rows = rows[rows["ImageId"].map(lambda name: bool(PLAIN_NAME.fullmatch(name))).astype(bool)]
    rows = rows.drop_duplicates(["split", "ImageId"])
    for split, line, image_id in _records(rows[rows["ImageId"].duplicated()], "split", "line", "ImageId"):
        path = str(folder / TABLES[split][0])
        findings.append(
            Finding("error", path, line, image_id, "is also in train.csv", "give it another name")
        )
    return rows.drop_duplicates("ImageId"), labels, findings


def _message(error, path):
    return str(error).removeprefix(str(path)).lstrip(":, ")


def _records(table, *columns):
    return table[list(columns)].itertuples(index=False, name=None)


def _scan(folder, rows, jobs):
    """[(photo, mask or None)] of all rows; decoding releases Python's lock, so threads do."""

    def scan(row):
        split, image_id = row
        photo = look(folder / f"{split}_images" / f"{image_id}.jpg", hashed=True)
        mask = folder / f"{split}_masks" / f"{image_id}.jpg"
        return photo, look(mask) if mask.exists() else None

    with ThreadPoolExecutor(jobs) as pool:
        tasks = pool.map(scan, _records(rows, "split", "ImageId"))
        return list(tqdm(tasks, total=len(rows), desc="check", unit="photo"))


def look(path: Path, hashed: bool = False) -> Picture:
    """Decode a picture to its last byte, at an eighth of its size where the format can; hash it if asked."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
            picture.draft("L", (128, 128))  # all of the file is still read: a truncated one is found
            picture.load()
            return Picture(*size, str(imagehash.phash(picture)) if hashed else "")
    except FileNotFoundError:
        return Picture(problem="missing")
    except UnidentifiedImageError:
        return Picture(problem="empty" if not data else "not a picture")
    except Exception as error:  # decoders raise many kinds for broken files
        return Picture(problem=f"unreadable ({error})")


def _images(folder, rows, photos, exclude, findings):
    """images.parquet's table; what is wrong with photos and masks goes to `findings`."""
    sizes = Counter(photo.size for photo, _ in photos if not photo.problem)
    usual = sizes.most_common(1)[0][0] if sizes else None
    table = []
    for (split, line, image_id), (photo, mask) in zip(
        _records(rows, "split", "line", "ImageId"), photos, strict=True
    ):
        if photo.problem:
            problem, advice = f"photo {photo.problem}", "bring the file again, or exclude the image"
        elif photo.size != usual:
            problem = f"photo of {_by(photo.size)} pixels, the others have {_by(usual)}"
            advice = "the intrinsics are for one size: resize the photo, or exclude the image"
        else:
            problem = ""
        if problem:
            path = str(folder / f"{split}_images" / f"{image_id}.jpg")
            findings.append(Finding("error", path, line, image_id, problem, advice))
        mask_problem = mask and (mask.problem or (mask.size != photo.size and f"of {_by(mask.size)} pixels"))
        if mask_problem and not photo.problem:
            path = str(folder / f"{split}_masks" / f"{image_id}.jpg")
            advice = f"it is not used; make it {_by(photo.size)}"
            findings.append(Finding("warning", path, line, image_id, f"mask {mask_problem}", advice))
        reason = exclude.get(image_id, "")
        usable_mask = mask is not None and not mask_problem
        table.append((image_id, split, photo.width, photo.height, usable_mask, photo.phash, reason))
    columns = ["ImageId", "split", "width", "height", "has_mask", "phash", "excluded"]
    images = pd.DataFrame(table, columns=columns).astype({"has_mask": bool})
    for split, group in images.groupby("split"):
        if without := int((~group["has_mask"]).sum()):
            path, finding = str(folder / f"{split}_masks"), f"{without} of {len(group)} images have no mask"
            findings.append(Finding("note", path, None, "", finding, "nothing: this is normal"))
    return images


def _by(size):
    return f"{size[0]}×{size[1]}"


def _check_camera(folder, images):
    """The intrinsics must belong to the photos' size."""
    path = folder / "camera" / "camera_intrinsic.txt"
    try:
        intrinsics = camera.read_intrinsics(path)
    except UserError as error:
        return [Finding("error", str(path), None, "", _message(error, path), "mend the file")]
    sizes = images.loc[images["width"] > 0, ["width", "height"]]
    if sizes.empty:
        return []
    size = sizes.value_counts().index[0]
    off = np.abs(intrinsics[:2, 2] / size - 0.5)
    if off.max() < OFF_CENTRE:
        return []
    centre = f"cx, cy = {intrinsics[0, 2]:g}, {intrinsics[1, 2]:g}"
    finding = f"{centre} is far from the middle of photos of {_by(size)} pixels"
    return [Finding("error", str(path), None, "", finding, "give the intrinsics for photos of this size")]


def _unlisted(folder, rows):
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


def _check_exclusions(folder, exclude, images):
    findings = []
    for image_id, reason in exclude.items():
        if image_id in set(images["ImageId"]):
            findings.append(Finding("note", str(folder), None, image_id, f"excluded: {reason}", "nothing"))
        else:
            advice = "correct the name or take it off the list"
            findings.append(
                Finding("warning", str(folder), None, image_id, "excluded, but not in the data", advice)
            )
    return findings


def _nothing_left(folder, images, labels, findings):
    """Nothing to learn from or to predict, unless another error of the table says why."""
    tests = images[(images["split"] == "test") & (images["excluded"] == "")]
    known = {finding.file for finding in findings if finding.severity == "error"}
    left = {"train": (labels, "car to learn from"), "test": (tests, "image to predict")}
    paths = {split: str(folder / name) for split, (name, _) in TABLES.items()}
    advice = "bring the whole file, or leave out less"
    return [
        Finding("error", paths[split], None, "", f"has no {what}", advice)
        for split, (table, what) in left.items()
        if table.empty and paths[split] not in known
    ]


def _check_cars(path, labels, lines, far, reason):
    """Labels that cannot be, or hardly can be, right. far: (cars,) bool, left out by rule."""
    findings = []

    def report(severity, rows, finding, advice):
        for number, car in enumerate(rows.to_dict("records")):
            text = finding(number, car) if callable(finding) else finding.format(**car)
            line = int(lines[car["ImageId"]])
            findings.append(Finding(severity, path, line, car["ImageId"], text, advice))

    report(
        "error", labels[labels["z"] <= 0], "a car with z = {z:g} m, not in front of the camera", "correct it"
    )
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
    above = _above_road(kept[cars.POSITION].to_numpy(float))
    limit = np.maximum(OFF_ROAD_METRES, OFF_ROAD * np.linalg.norm(kept[cars.POSITION], axis=1))
    flying = np.abs(above) > limit
    report(
        "warning",
        kept[flying],
        lambda number, car: (
            f"a car with z = {car['z']:g} m is {above[flying][number]:+.1f} m above the common road"
        ),
        "look at it: a wrong label or a steep road",
    )
    return findings


def _above_road(xyz):
    """(N, 3) → (N,) metres above the plane y = a + b·x + c·z that fits all cars best (Huber loss, 0.5 m)."""
    if len(xyz) < 10:
        return np.zeros(len(xyz))
    design = np.column_stack([np.ones(len(xyz)), xyz[:, 0], xyz[:, 2]])
    fit = least_squares(lambda plane: design @ plane - xyz[:, 1], [1.5, 0, 0.1], loss="huber", f_scale=0.5)
    return design @ fit.x - xyz[:, 1]  # y points down


def _relieve(finding, exclude):
    """Nothing wrong with an excluded image stops the work."""
    if finding.severity == "error" and finding.ImageId in exclude:
        return finding._replace(severity="note", advice=f"nothing: excluded, {exclude[finding.ImageId]}")
    return finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the competition's data folder")
    parser.add_argument("--findings", type=Path, help="write the table of findings to this CSV")
    parser.add_argument("--images", type=Path, help="write the table of images to this Parquet file")
    parser.add_argument("--labels", type=Path, help="write the cars to learn from to this Parquet file")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=[],
        metavar="ID=REASON",
        help="images to leave out, each with its reason",
    )
    parser.add_argument(
        "--max-depth", type=float, default=math.inf, help="leave out labels beyond, in metres"
    )
    parser.add_argument(
        "--max-depth-reason", default="beyond the configured depth", help="the reason, for the record"
    )
    parser.add_argument("--jobs", type=whole(1), default=os.cpu_count(), help="photos decoded at a time")


def run(args: argparse.Namespace) -> int:
    """Check, print, write what was asked for. Exit status 1 where there is an error."""
    exclude = {}
    for item in args.exclude:
        image_id, _, reason = item.partition("=")
        if not reason.strip():
            raise UserError(f"--exclude {item}: give the reason too, as {image_id}=REASON")
        exclude[image_id] = reason.strip()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: is not a folder; name the competition's data folder")
    images, labels, findings = check(
        args.folder, exclude, args.max_depth, args.max_depth_reason, max(args.jobs, 1)
    )
    if args.findings:
        with atomic(args.findings) as temporary:
            table = pd.DataFrame(findings, columns=Finding._fields).astype({"line": "Int64"})
            table.to_csv(temporary, index=False)
    errors = _print(images, labels, findings, args.findings)
    if errors:
        return 1
    if args.images:
        with atomic(args.images) as temporary:
            images.to_parquet(temporary, index=False)
    if args.labels:
        cars.write(args.labels, labels)
    return 0


def _print(images, labels, findings, path):
    """Summary and the first findings of each severity; returns the number of errors."""
    by_severity = {name: [f for f in findings if f.severity == name] for name in reversed(SEVERITIES)}
    for severity, group in by_severity.items():
        for finding in group[:SHOWN]:
            print(f"{severity}: {finding}")
        if len(group) > SHOWN:
            print(f"{severity}: … and {len(group) - SHOWN} more")
    used = images[images["excluded"] == ""]["split"].value_counts()
    counts = ", ".join(
        f"{len(group)} {severity}{'s' * (len(group) != 1)}" for severity, group in by_severity.items()
    )
    print(
        f"{used.get('train', 0)} training images with {len(labels)} cars, {used.get('test', 0)} test images, "
        f"{(images['excluded'] != '').sum()} excluded; {counts}" + (f"; all in {path}" if path else "")
    )
    return len(by_severity["error"])
