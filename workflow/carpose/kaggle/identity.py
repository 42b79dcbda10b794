"""A fingerprint of a data folder that does not need to read its photos."""

import hashlib
import os
from pathlib import Path

PHOTO_FOLDERS = ["test_images", "test_masks", "train_images", "train_masks"]
DATA_FILES = ["train.csv", "sample_submission.csv", "camera/camera_intrinsic.txt"]


def data_identity(folder: str | Path) -> str:
    """16 hex digits: SHA-256 of the names and sizes of all photos and masks, and of the content of
    DATA_FILES.

    It does not notice a photo that is replaced by another of the same name and size; the check's digests do.
    It does not depend on file times or on the folder's name. A missing file counts as empty.
    """
    digest = hashlib.sha256()
    for name in PHOTO_FOLDERS:
        for file, size in _sizes(os.path.join(folder, name)):
            digest.update(os.fsencode(f"{name}/{file}\0{size}\n"))
    for name in DATA_FILES:
        path = Path(folder, name)
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name}\0{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _sizes(folder: str) -> list[tuple[str, int]]:
    """Names and sizes of the files in a folder, by name."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        photos = [entry for entry in entries if entry.name.endswith(".jpg") and entry.name[0] != "."]
        return sorted((entry.name, _size(entry)) for entry in photos)


def _size(entry: os.DirEntry) -> int:
    """In bytes; −1 where the entry is a link to nothing or to itself, which the check reports."""
    try:
        return entry.stat().st_size
    except OSError:
        return -1
