"""Photos and masks of a data folder, each decoded once, and what is wrong with them."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import imagehash
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .tables import Finding


class Picture(NamedTuple):
    """What one file is: size in pixels, perceptual hash, or why it cannot be used ("" = it can)."""

    width: int = 0
    height: int = 0
    phash: str = ""
    problem: str = ""


def look(path: Path, hashed: bool = False) -> tuple[Picture, bytes]:
    """Decode a picture to its last byte, at an eighth of its size where the format can; hash it if asked.

    Returns what it is, and its bytes (none where they cannot be read).
    """
    data = b""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
            picture.draft("L", (128, 128))  # all of the file is still read: a truncated one is found
            picture.load()
            return Picture(*size, str(imagehash.phash(picture)) if hashed else ""), data
    except FileNotFoundError:
        return Picture(problem="missing"), data
    except UnidentifiedImageError:
        return Picture(problem="not a picture" if data else "empty"), data
    except Exception as error:  # decoders raise many kinds for broken files
        return Picture(problem=f"unreadable ({error})"), data


def paths(folder: Path, split: str, image_id: str) -> tuple[Path, Path]:
    """The files of a photo and of its mask."""
    name = f"{image_id}.jpg"
    return folder / f"{split}_images" / name, folder / f"{split}_masks" / name


def scan(folder: Path, rows: pd.DataFrame, jobs: int) -> pd.DataFrame:
    """`rows` (split, ImageId …) with what their photos are; decoding releases Python's lock, so threads do.

    Adds a Picture's columns; has_mask: one that can be used; mask_problem: why one that is there cannot be
    ("": it can); digest: first 16 hex digits of SHA-256 over photo and usable mask ("": no photo).
    """

    def look_at(split, image_id):
        photo_path, mask_path = paths(folder, split, image_id)
        picture, content = look(photo_path, hashed=True)
        has_file, problem = mask_path.exists(), ""
        if has_file:
            mask, mask_content = look(mask_path)
            problem = mask.problem or ("" if mask[:2] == picture[:2] else f"of {by(mask[:2])} pixels")
            content += b"" if problem else mask_content
        digest = "" if picture.problem == "missing" else hashlib.sha256(content).hexdigest()[:16]
        return *picture, has_file and not problem, problem, digest

    with ThreadPoolExecutor(jobs) as pool:
        tasks = pool.map(look_at, rows["split"], rows["ImageId"])
        seen = list(tqdm(tasks, total=len(rows), desc="check", unit="photo"))
    columns = [*Picture._fields, "has_mask", "mask_problem", "digest"]
    seen = pd.DataFrame(seen, columns=columns).astype({"has_mask": bool})
    return pd.concat([rows.reset_index(drop=True), seen], axis=1)


def check_photos(folder: Path, scanned: pd.DataFrame) -> list[Finding]:
    """What is wrong with photos and masks. All photos must have one size, that of most of them."""
    findings = []
    sizes = scanned.loc[scanned["problem"] == "", ["width", "height"]].value_counts()
    usual = sizes.index[0] if len(sizes) else None
    for row in scanned.itertuples():
        photo_path, mask_path = map(str, paths(folder, row.split, row.ImageId))
        size = row.width, row.height
        if row.problem:
            problem, advice = f"photo {row.problem}", "bring the file again, or exclude the image"
            findings.append(Finding("error", photo_path, row.line, row.ImageId, problem, advice))
            continue
        if size != usual:
            problem = f"photo of {by(size)} pixels, the others have {by(usual)}"
            advice = "the intrinsics are for one size: resize the photo, or exclude the image"
            findings.append(Finding("error", photo_path, row.line, row.ImageId, problem, advice))
        if row.mask_problem:
            problem, advice = f"mask {row.mask_problem}", f"it is not used; make it {by(size)}"
            findings.append(Finding("warning", mask_path, row.line, row.ImageId, problem, advice))
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
