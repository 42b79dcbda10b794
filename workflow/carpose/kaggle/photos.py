"""Photos and masks of a data folder: each is decoded once and checked."""

import contextlib
import functools
import hashlib
import io
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from carpose.core.pictures import damage

from .tables import Finding

UPRIGHT = 1  # EXIF's orientation of a picture that viewers do not rotate
MAX_PIXELS = 150_000_000  # of a picture; the data set's have 9 million. More need gigabytes in each process.
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked instead of Pillow's limit, which first warns
MASKED = 128  # a pixel of a mask is masked from this value on
ALL_MASKED = "covers the whole photo"


class Picture(NamedTuple):
    """Of one file: width and height in pixels as stored; phash: perceptual hash; problem: why it cannot be
    used ("" if it can); remark: what is unusual about a file that can be used."""

    width: int = 0
    height: int = 0
    phash: str = ""
    problem: str = ""
    remark: str = ""


def inspect_picture(path: Path, with_hash: bool = False, is_mask: bool = False) -> tuple[Picture, bytes]:
    """Decode a picture file, at an eighth of its size where the format allows it, and check all of its bytes.

    with_hash: whether to compute phash; is_mask: whether to look for a mask that covers everything. Returns
    the result and the file's bytes (b"" where they cannot be read). It redirects stderr, so call it in a
    process of its own: see carpose.core.pictures.damage.
    """
    data = b""
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            return Picture(problem="not a file"), data
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            size, orientation = picture.size, _orientation(picture)
            if size[0] * size[1] > MAX_PIXELS:
                text = f"of {size_text(size)} pixels, more than {MAX_PIXELS // 10**6} million"
                return Picture(problem=text), data
            picture.draft("L", (128, 128))  # the complete file is still read, so truncation is noticed
            picture.load()
            phash = str(imagehash.phash(picture)) if with_hash else ""
            darkest = np.asarray(picture.convert("L")).min() if is_mask else 0
    except FileNotFoundError:
        return Picture(problem="missing"), data
    except OSError as error:
        if error.errno is None:  # Pillow's, about the content
            problem = f"unreadable ({error})" if data else "empty"
            is_picture = not isinstance(error, UnidentifiedImageError)
            return Picture(problem=problem if is_picture or not data else "not a picture"), data
        return Picture(problem=f"unreadable ({error.strerror})"), data
    except Exception as error:  # decoders raise exceptions of many types for broken files
        return Picture(problem=f"unreadable ({error})"), data
    if warning := damage(data):
        return Picture(problem=f"damaged ({warning})"), data
    remark = "" if orientation == UPRIGHT else f"has EXIF orientation {orientation}"
    if darkest >= MASKED:
        remark = ALL_MASKED
    return Picture(*size, phash, remark=remark), data


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 … 8; 1 where it is missing or unreadable, since it is only reported."""
    with contextlib.suppress(Exception):
        orientation = picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        return orientation if orientation in range(1, 9) else UPRIGHT
    return UPRIGHT


def paths(folder: Path, split: str, image_id: str) -> tuple[Path, Path]:
    """The paths of a photo and of its mask."""
    name = f"{image_id}.jpg"
    return folder / f"{split}_images" / name, folder / f"{split}_masks" / name


def scan(folder: Path, rows: pd.DataFrame, jobs: int) -> pd.DataFrame:
    """Decode the photos and masks of `rows` (split, ImageId …) and add columns; jobs: number of processes.

    The columns are those of Picture for the photo; has_mask: whether the mask can be used; mask_problem (why
    it cannot be read), mask_remark and mask_size (if it is not the photo's), each "" without one; digest:
    first 16 hex digits of SHA-256 over the bytes of the photo and its usable mask ("" without a photo).
    """
    with ProcessPoolExecutor(jobs) as pool:
        tasks = pool.map(functools.partial(_scan_one, folder), rows["split"], rows["ImageId"], chunksize=4)
        scanned = list(tqdm(tasks, total=len(rows), desc="check", unit="photo"))
    columns = [*Picture._fields, "has_mask", "mask_problem", "mask_remark", "mask_size", "digest"]
    pictures = pd.DataFrame(scanned, columns=columns).astype({"has_mask": bool})
    return pd.concat([rows.reset_index(drop=True), pictures], axis=1)


def _scan_one(folder: Path, split: str, image_id: str) -> tuple:
    """The columns that `scan` adds, of one photo."""
    photo_path, mask_path = paths(folder, split, image_id)
    photo, content = inspect_picture(photo_path, with_hash=True)
    mask, mask_size, usable = Picture(), "", False
    if os.path.lexists(mask_path):  # also a link to nothing, which would otherwise count as no mask
        mask, mask_content = inspect_picture(mask_path, is_mask=True)
        usable = not mask.problem and mask[:2] == photo[:2]
        mask_size = "" if mask.problem or usable else size_text(mask[:2])
        content += mask_content if usable else b""
    digest = "" if photo.problem == "missing" else hashlib.sha256(content).hexdigest()[:16]
    return *photo, usable, mask.problem, mask.remark, mask_size, digest


def check_photos(folder: Path, scanned: pd.DataFrame) -> list[Finding]:
    """Findings about photos and masks. All photos must have the size that is the most frequent one."""
    findings = []
    sizes = scanned.loc[scanned["problem"] == "", ["width", "height"]].value_counts()
    usual = sizes.index[0] if len(sizes) else (0, 0)  # without a readable photo it is not used
    as_stored = "it is read without this rotation; check that its labels fit"
    for row in scanned.itertuples():
        photo_path, mask_path = map(str, paths(folder, row.split, row.ImageId))

        def report(severity: str, path: str, finding: str, advice: str, row: Any = row) -> None:
            # No line: the photo's is in train.csv or sample_submission.csv, not in this file.
            findings.append(Finding(severity, path, None, row.ImageId, finding, advice))

        size = row.width, row.height
        if row.problem:
            text, advice = f"photo {row.problem}", "replace the file, or exclude the image"
            if row.problem == "missing" and (similar := _similar_file(Path(photo_path), row.ImageId)):
                text += f", but there is {similar}"
                advice = f"rename it to {row.ImageId}.jpg"
                if similar == row.ImageId:
                    advice = f"write the ImageId without {Path(similar).suffix}"
            report("error", photo_path, text, advice)
            continue
        if size != usual:
            text = f"photo of {size_text(size)} pixels, the others have {size_text(usual)}"
            advice = "the intrinsics are for one size: resize the photo, or exclude the image"
            report("error", photo_path, text, advice)
        if row.remark:
            report("warning", photo_path, f"photo {row.remark}", as_stored)
        if row.mask_problem:
            advice = "replace the file, delete it, or exclude the image"
            report("error", mask_path, f"mask {row.mask_problem}", advice)
        elif row.mask_size:
            advice = f"it is not used; resize it to {size_text(size)}"
            report("warning", mask_path, f"mask of {row.mask_size} pixels", advice)
        elif row.mask_remark:
            advice = as_stored
            if row.mask_remark == ALL_MASKED:
                advice = "no car in it is learnt or predicted; delete the mask, or exclude the image"
            report("warning", mask_path, f"mask {row.mask_remark}", advice)
    return findings


def _similar_file(path: Path, image_id: str) -> str:
    """A file beside a missing photo whose name differs in its suffix or in case only; "" without one."""
    names = {image_id.casefold(), Path(image_id).stem.casefold()}
    files = os.listdir(path.parent) if path.parent.is_dir() else []
    similar = [name for name in files if {name.casefold(), Path(name).stem.casefold()} & names]
    return min(similar, default="")


def count_masks(folder: Path, images: pd.DataFrame) -> list[Finding]:
    """A note per split with the number of photos without a usable mask."""
    findings = []
    for split, group in images.groupby("split"):
        group = group[group["width"] > 0]  # of other photos the check reports that they cannot be read
        if without := int((~group["has_mask"]).sum()):
            path, finding = str(folder / f"{split}_masks"), f"{without} of {len(group)} images have no mask"
            findings.append(Finding("note", path, None, "", finding, "this is normal"))
    return findings


def size_text(size: tuple[int, int]) -> str:
    """Width and height for a message."""
    return f"{size[0]}×{size[1]}"
