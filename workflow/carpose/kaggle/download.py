"""Download of the competition's data with the kaggle client. The folder appears only when it is complete."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from carpose.core.errors import UserError

from .client import COMPETITION, call
from .identity import DATA_FILES

NEEDED = [*DATA_FILES, "train_images", "test_images"]
GB = 1e9


def download(folder: str | Path, space: float) -> None:
    """Download the archive to FOLDER.download, unpack it there, and rename the result to FOLDER.

    space: GB that must be free before the download. After an interruption the same call continues with what
    was downloaded. Raises UserError where the folder holds something else, the disk has too little space, the
    client fails or the archive is damaged.
    """
    folder = Path(folder).resolve()
    if not missing(folder):
        print(f"{folder}: the data were downloaded before")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists, but has no {missing(folder)[0]}; name a new or an empty folder")
    staging = folder.with_name(f"{folder.name}.download")
    archive, unpacked = staging / f"{COMPETITION}.zip", staging / "unpacked"
    staging.mkdir(parents=True, exist_ok=True)
    if not zipfile.is_zipfile(archive):  # complete: a zip's table of contents is at its end
        downloaded = archive.stat().st_size if archive.exists() else 0
        check_space(staging, space * GB - downloaded, "downloading and unpacking take")
        try:
            call("download", "-p", str(staging))
        finally:
            if not any(staging.iterdir()):
                staging.rmdir()
        if not zipfile.is_zipfile(archive):
            archive.unlink(missing_ok=True)
            text = "the client did not download a complete archive; run the same command again"
            raise UserError(f"{archive}: {text}")
    unpack(archive, unpacked)
    if not_unpacked := missing(unpacked):
        raise UserError(f"{archive}: has no {not_unpacked[0]}; is it the archive of {COMPETITION}?")
    os.replace(unpacked, folder)
    shutil.rmtree(staging)
    command = f"snakemake submission --configfile configs/pku.yaml --config data_root={folder}"
    print(f"{folder}: downloaded; for example {command}")


def missing(folder: Path) -> list[str]:
    """The files and folders of the competition's data that `folder` lacks."""
    return [name for name in NEEDED if not (folder / name).exists()]


def check_space(folder: Path, needed: float, text: str) -> None:
    """Raises UserError where fewer than `needed` bytes are free; text: what needs them, with a verb."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{free / GB:.1f} GB are free, {text} {needed / GB:.1f} GB"
        raise UserError(f"{folder}: {sizes}; free some space or name a folder on another disk")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive and compare each file with its checksum. On an error the unpacked files are deleted.

    Raises UserError where the archive is damaged, which deletes it, or the disk has too little space.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            check_space(archive.parent, sum(item.file_size for item in content.infolist()), "unpacking takes")
            content.extractall(folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, zipfile.BadZipFile | zlib.error):
            raise
        archive.unlink()
        text = "it was deleted; run the same command again to download it"
        raise UserError(f"{archive}: is damaged ({error}); {text}") from error
