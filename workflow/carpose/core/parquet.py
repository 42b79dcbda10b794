"""Parquet tables between stages. They are checked when they are read, so that an invalid file is an error at
once that names it."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from pandas.api import types

from .errors import UserError
from .files import atomic, one_line
from .version import provenance, remember_use

# What a column holds; messages print it. NUMBER_OR_NAN: NaN stands for unknown.
TEXT, NUMBER, NUMBER_OR_NAN, FLAG = "text", "finite numbers", "numbers", "true or false"
IMAGES = {"ImageId": TEXT, "split": TEXT, "excluded": TEXT, "phash": TEXT}
FOLDS, GROUPS = {"ImageId": TEXT, "fold": NUMBER}, {"group": TEXT}
ABOUT = b"carpose"  # the key of our entry in the file's metadata, see `write`
# The SHA-256 of the file with zeros in place of it. Parquet's own checksums leave out the metadata.
DIGEST, NO_DIGEST = b"carpose_sha256", b"0" * 64
AGAIN = "delete it, and the same command makes it again"


def write(path: str | Path, table: pd.DataFrame, **about: Any) -> None:
    """Write to Parquet atomically. The file's metadata get the code's version and `about`, as JSON, and a
    checksum of the file."""
    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    metadata = {ABOUT: json.dumps(provenance() | about | {"checksum": DIGEST.decode()}).encode()}
    content = content.replace_schema_metadata(content.schema.metadata | metadata)
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, content.schema) as writer:
        writer.write_table(content)
        writer.add_key_value_metadata({DIGEST: NO_DIGEST})
    data = buffer.getvalue()
    before, _, after = data.rpartition(NO_DIGEST)  # the metadata are at the end of the file
    with atomic(path) as temporary:
        temporary.write_bytes(before + hashlib.sha256(data).hexdigest().encode() + after)


def load(path: str | Path) -> tuple[pd.DataFrame, dict]:
    """Read a table, and what `write` put into its metadata (see `about`); compare the checksum, if any.

    Raises UserError where there is no file, or where it is damaged or not Parquet.
    """
    with _named(path):
        data = Path(path).read_bytes()
        # Without threads, also for reading ahead: pyarrow's can abort a program that ends soon after, or keep
        # it from ending (issues 34314 and 50482 of apache/arrow).
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False)
        metadata = file.metadata.metadata or {}
        # Its name stands in the file twice: no damage must make it look like a file without a checksum.
        if DIGEST in data:
            digest = metadata.get(DIGEST, NO_DIGEST)
            before, _, after = data.rpartition(digest)
            if hashlib.sha256(before + NO_DIGEST + after).hexdigest().encode() != digest:
                raise ValueError("its checksum is wrong: some of its bytes were changed")
        return file.read(use_threads=False).to_pandas(use_threads=False), _about(metadata)


def about(path: str | Path) -> dict:
    """The metadata that `write` put into a file (code, code_digest and its `about`); {} for other files.

    Raises UserError where there is no file, or where they are invalid or it is not Parquet.
    """
    with _named(path):
        return _about(pyarrow.parquet.read_schema(path).metadata or {})


def _about(metadata: dict[bytes, bytes]) -> dict:
    content = json.loads(metadata.get(ABOUT, b"{}"))
    if not isinstance(content, dict):
        raise ValueError("its metadata are invalid")
    for name, item_type in {"image_ids": str, "folds": int}.items():
        values = content.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, item_type) for value in values):
            raise ValueError(f"{name} in its metadata is invalid")
    return content


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turns errors of reading the file into UserErrors that name it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: not a readable Parquet table, but a folder") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # says nothing about the content of the file, such as a missing right
        raise UserError(f"{path}: not a readable Parquet table ({one_line(error)}); {AGAIN}") from error


def read(path: str | Path, columns: dict[str, str], optional: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table and check its columns.

    columns: required columns, name → content (TEXT, NUMBER, …); optional: the same for columns that may be
    missing. Raises UserError with the file, the column and, where there is one, the ImageId.
    """
    table, metadata = load(path)
    check(path, table, columns, optional)
    remember_use(path, metadata)
    return table


def check(
    path: str | Path, table: pd.DataFrame, columns: dict[str, str], optional: dict[str, str] | None = None
) -> None:
    """Raises UserError as `read`, of a table that was read from `path`."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(
            f"{path}: columns missing from the table: {', '.join(missing)}; is it the right file?"
        )
    for name, content in ((optional or {}) | columns).items():
        if name in table and len(table):
            _check(path, table, name, content)


def content_digest(table: pd.DataFrame) -> str:
    """A hash of the rows without the metadata: 16 hex digits that do not depend on the code's version."""
    hasher = hashlib.sha256("\0".join(table.columns).encode())
    hasher.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return hasher.hexdigest()[:16]


def _check(path: str | Path, table: pd.DataFrame, name: str, content: str) -> None:
    column = table[name]
    is_valid = {TEXT: types.is_string_dtype, FLAG: types.is_bool_dtype}.get(content, types.is_numeric_dtype)
    bad = column.isna().to_numpy() if content in (TEXT, FLAG) else np.zeros(len(table), bool)
    if not is_valid(column) and not bad.any():
        raise UserError(f"{path}: the column {name} must hold {content}; make the table again")
    if content == NUMBER:
        bad = ~np.isfinite(column.to_numpy(float))
    if bad.any():
        where = "" if name == "ImageId" else f", first in image {table['ImageId'][bad].iloc[0]}"
        raise UserError(
            f"{path}: {bad.sum()} values of {name} are not {content}{where}; make the table again"
        )


def read_images(path: str | Path) -> pd.DataFrame:
    """images.parquet of the check: a row per photo; `excluded`: the reason to leave it out, "" if it is used.

    Raises UserError where the table is invalid, empty or names an image twice.
    """
    return _read_unique_images(path, IMAGES)


def read_folds(path: str | Path) -> pd.DataFrame:
    """folds.parquet: a row per training photo, with its fold and optionally its group of near-duplicates.

    Raises UserError where the table is invalid, empty or names an image twice.
    """
    return _read_unique_images(path, FOLDS, GROUPS)


def _read_unique_images(
    path: str | Path, columns: dict[str, str], optional: dict[str, str] | None = None
) -> pd.DataFrame:
    table = read(path, columns, optional)
    if table.empty:
        raise UserError(f"{path}: holds no image; make it again")
    duplicated = table["ImageId"].duplicated()
    if duplicated.any():
        image_id = table["ImageId"][duplicated].iloc[0]
        raise UserError(f"{path}: image {image_id} occurs twice; make the table again")
    return table
