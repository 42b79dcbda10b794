"""The competition's data → a folder, with the kaggle client; whole or not there."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from carpose.core.errors import UserError

from .client import COMPETITION, call
from .identity import TABLES

NEEDED = [*TABLES, "train_images", "test_images"]
GB = 1e9


def download(folder: str | Path, space: float) -> None:
    """Fetch the archive into FOLDER.download, unpack it there once, rename that to FOLDER.

    space: GB that must be free before anything is fetched. Interrupted at any moment, the same call goes on:
    with what the client has fetched, and with an archive that is whole. Raises UserError where it cannot.
    """
    folder = Path(folder).resolve()
    if not missing(folder):
        print(f"{folder}: the data are there already")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there and has no {missing(folder)[0]}; name a new or an empty folder")
    place = folder.with_name(f"{folder.name}.download")
    archive, unpacked = place / f"{COMPETITION}.zip", place / "unpacked"
    place.mkdir(parents=True, exist_ok=True)
    if not zipfile.is_zipfile(archive):  # its table of contents is written last
        fetched = archive.stat().st_size if archive.exists() else 0
        check_space(place, space * GB - fetched, "downloading and unpacking take")
        try:
            call("download", "-p", str(place))
        finally:
            if not any(place.iterdir()):
                place.rmdir()
        if not zipfile.is_zipfile(archive):
            archive.unlink(missing_ok=True)
            raise UserError(f"{archive}: the client left no whole archive; the same command fetches it again")
    unpack(archive, unpacked)
    if lacking := missing(unpacked):
        raise UserError(f"{archive}: has no {lacking[0]}; is it the archive of {COMPETITION}?")
    os.replace(unpacked, folder)
    shutil.rmtree(place)
    command = f"snakemake submission --configfile configs/pku.yaml --config data_root={folder}"
    print(f"{folder}: downloaded; for example {command}")


def missing(folder: Path) -> list[str]:
    """What a data folder must have and this one has not."""
    return [name for name in NEEDED if not (folder / name).exists()]


def check_space(folder: Path, needed: float, text: str) -> None:
    """Raises UserError where fewer bytes are free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{free / GB:.1f} GB are free, {text} {needed / GB:.1f} GB"
        raise UserError(f"{folder}: {sizes}; make room or name another disk")


def unpack(archive: Path, folder: Path) -> None:
    """All of an archive, each file compared with its checksum; nothing stays where that does not end well.

    An archive that is damaged is deleted. Raises UserError then, or where the disk has too little room.
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
        text = "it is deleted, the same command fetches it again"
        raise UserError(f"{archive}: is damaged ({error}); {text}") from error
