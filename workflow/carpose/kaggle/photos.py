"""Photos and masks of a data folder, each decoded once, and what is wrong with them."""

import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .findings import Finding

COLUMNS = ["ImageId", "split", "width", "height", "has_mask", "phash", "digest", "excluded"]


@dataclass(frozen=True)
class Picture:
    """What one file is: size in pixels, perceptual hash, or why it cannot be used ("" = it can)."""

    width: int = 0
    height: int = 0
    phash: str = ""
    problem: str = ""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True)
class Photo:
    """A photo with its mask.

    mask_problem: why the mask cannot be used ("" where it can); digest: first 16 hex digits of SHA-256 over
    the bytes of the photo and of the mask, where it is used; "" where there is no photo.
    """

    picture: Picture
    has_mask: bool
    mask_problem: str
    digest: str


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


def look_with_mask(photo_path: Path, mask_path: Path) -> Photo:
    picture, content = look(photo_path, hashed=True)
    has_mask, problem = mask_path.exists(), ""
    if has_mask:
        mask, mask_content = look(mask_path)
        problem = mask.problem or ("" if mask.size == picture.size else f"of {by(mask.size)} pixels")
        content += b"" if problem else mask_content
    digest = "" if picture.problem == "missing" else hashlib.sha256(content).hexdigest()[:16]
    return Photo(picture, has_mask, problem, digest)


def scan(folder: Path, rows: pd.DataFrame, jobs: int) -> list[Photo]:
    """All photos of `rows` (split, ImageId); decoding releases Python's lock, so threads do."""

    def look_at(split, image_id):
        return look_with_mask(*paths(folder, split, image_id))

    with ThreadPoolExecutor(jobs) as pool:
        tasks = pool.map(look_at, rows["split"], rows["ImageId"])
        return list(tqdm(tasks, total=len(rows), desc="check", unit="photo"))


def paths(folder: Path, split: str, image_id: str) -> tuple[Path, Path]:
    """The files of a photo and of its mask."""
    name = f"{image_id}.jpg"
    return folder / f"{split}_images" / name, folder / f"{split}_masks" / name


def images_table(rows: pd.DataFrame, photos: list[Photo], exclude: dict[str, str]) -> pd.DataFrame:
    """images.parquet's table: one row per photo of `rows`."""
    table = [
        (
            *(image_id, split, *photo.picture.size),
            *(photo.has_mask and not photo.mask_problem, photo.picture.phash, photo.digest),
            exclude.get(image_id, ""),
        )
        for split, image_id, photo in zip(rows["split"], rows["ImageId"], photos, strict=True)
    ]
    return pd.DataFrame(table, columns=COLUMNS).astype({"has_mask": bool})


def check_photos(folder: Path, rows: pd.DataFrame, photos: list[Photo]) -> list[Finding]:
    """What is wrong with photos and masks. All photos must have one size, that of most of them."""
    findings = []
    sizes = Counter(photo.picture.size for photo in photos if not photo.picture.problem)
    usual = sizes.most_common(1)[0][0] if sizes else None
    for row, photo in zip(rows.itertuples(), photos, strict=True):
        photo_path, mask_path = map(str, paths(folder, row.split, row.ImageId))
        if photo.picture.problem:
            problem, advice = f"photo {photo.picture.problem}", "bring the file again, or exclude the image"
            findings.append(Finding("error", photo_path, row.line, row.ImageId, problem, advice))
            continue
        if photo.picture.size != usual:
            problem = f"photo of {by(photo.picture.size)} pixels, the others have {by(usual)}"
            advice = "the intrinsics are for one size: resize the photo, or exclude the image"
            findings.append(Finding("error", photo_path, row.line, row.ImageId, problem, advice))
        if photo.mask_problem:
            problem, advice = (
                f"mask {photo.mask_problem}",
                f"it is not used; make it {by(photo.picture.size)}",
            )
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
