"""Photos and masks of a data folder, each decoded once, and what is wrong with them."""

import contextlib
import functools
import hashlib
import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import imagehash
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from carpose.core.pictures import damage

from .tables import Finding

UPRIGHT = 1  # EXIF's number of an orientation that turns nothing


class Picture(NamedTuple):
    """What one file is: size in pixels as stored, perceptual hash; why it cannot be used ("": it can), and
    what is odd about it though it can."""

    width: int = 0
    height: int = 0
    phash: str = ""
    problem: str = ""
    remark: str = ""


def look(path: Path, hashed: bool = False) -> tuple[Picture, bytes]:
    """Decode a picture to its last byte, at an eighth of its size where the format can; hash it if asked.

    Returns what it is, and its bytes (none where they cannot be read). For a process of its own, see
    carpose.core.pictures.damage.
    """
    data = b""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            size, turn = picture.size, _orientation(picture)
            picture.draft("L", (128, 128))  # all of the file is still read: a truncated one is found
            picture.load()
            phash = str(imagehash.phash(picture)) if hashed else ""
    except FileNotFoundError:
        return Picture(problem="missing"), data
    except UnidentifiedImageError:
        return Picture(problem="not a picture" if data else "empty"), data
    except Exception as error:  # decoders raise many kinds for broken files
        return Picture(problem=f"unreadable ({error})"), data
    if lost := damage(data):
        return Picture(problem=f"damaged ({lost})"), data
    remark = "" if turn == UPRIGHT else f"asks to be turned (EXIF orientation {turn})"
    return Picture(*size, phash, remark=remark), data


def _orientation(picture: Image.Image) -> int:
    """EXIF's, 1 … 8; 1 where there is none, or none that can be read: it does not count anyway."""
    with contextlib.suppress(Exception):
        turn = picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        return turn if turn in range(1, 9) else UPRIGHT
    return UPRIGHT


def paths(folder: Path, split: str, image_id: str) -> tuple[Path, Path]:
    """The files of a photo and of its mask."""
    name = f"{image_id}.jpg"
    return folder / f"{split}_images" / name, folder / f"{split}_masks" / name


def scan(folder: Path, rows: pd.DataFrame, jobs: int) -> pd.DataFrame:
    """`rows` (split, ImageId …) with what their photos are; jobs: processes.

    Adds a Picture's columns; has_mask: one that can be used; of a mask that is there mask_problem (why it
    cannot be read), mask_remark, mask_size (where it is not the photo's), each "" else; digest: first 16 hex
    digits of SHA-256 over photo and usable mask ("": no photo).
    """
    with ProcessPoolExecutor(jobs) as pool:
        tasks = pool.map(functools.partial(_look_at, folder), rows["split"], rows["ImageId"], chunksize=4)
        looks = list(tqdm(tasks, total=len(rows), desc="check", unit="photo"))
    columns = [*Picture._fields, "has_mask", "mask_problem", "mask_remark", "mask_size", "digest"]
    pictures = pd.DataFrame(looks, columns=columns).astype({"has_mask": bool})
    return pd.concat([rows.reset_index(drop=True), pictures], axis=1)


def _look_at(folder: Path, split: str, image_id: str) -> tuple:
    """One row of `scan`."""
    photo_path, mask_path = paths(folder, split, image_id)
    picture, content = look(photo_path, hashed=True)
    mask, mask_size, usable = Picture(), "", False
    if mask_path.exists():
        mask, mask_content = look(mask_path)
        usable = not mask.problem and mask[:2] == picture[:2]
        mask_size = "" if mask.problem or usable else by(mask[:2])
        content += mask_content if usable else b""
    digest = "" if picture.problem == "missing" else hashlib.sha256(content).hexdigest()[:16]
    return *picture, usable, mask.problem, mask.remark, mask_size, digest


def check_photos(folder: Path, scanned: pd.DataFrame) -> list[Finding]:
    """What is wrong with photos and masks. All photos must have one size, that of most of them."""
    findings = []
    sizes = scanned.loc[scanned["problem"] == "", ["width", "height"]].value_counts()
    usual = sizes.index[0] if len(sizes) else None
    as_stored = "it is read as it is stored; look at it with its labels"
    for row in scanned.itertuples():
        photo_path, mask_path = map(str, paths(folder, row.split, row.ImageId))

        def report(severity: str, path: str, finding: str, advice: str, row=row):
            findings.append(Finding(severity, path, row.line, row.ImageId, finding, advice))

        size = row.width, row.height
        if row.problem:
            advice = "bring the file again, or exclude the image"
            report("error", photo_path, f"photo {row.problem}", advice)
            continue
        if size != usual:
            advice = "the intrinsics are for one size: resize the photo, or exclude the image"
            report("error", photo_path, f"photo of {by(size)} pixels, the others have {by(usual)}", advice)
        if row.remark:
            report("warning", photo_path, f"photo {row.remark}", as_stored)
        if row.mask_problem:
            advice = "bring the file again, delete it, or exclude the image"
            report("error", mask_path, f"mask {row.mask_problem}", advice)
        elif row.mask_size:
            advice = f"it is not used; make it {by(size)}"
            report("warning", mask_path, f"mask of {row.mask_size} pixels", advice)
        elif row.mask_remark:
            report("warning", mask_path, f"mask {row.mask_remark}", as_stored)
    return findings


def count_masks(folder: Path, images: pd.DataFrame) -> list[Finding]:
    """A note where photos have no mask, or none that can be used."""
    findings = []
    for split, group in images.groupby("split"):
        if without := int((~group["has_mask"]).sum()):
            path, finding = str(folder / f"{split}_masks"), f"{without} of {len(group)} images have no mask"
            findings.append(Finding("note", path, None, "", finding, "nothing: this is normal"))
    return findings


def by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
