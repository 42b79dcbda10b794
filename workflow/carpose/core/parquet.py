"""Tables that stages hand on as Parquet, checked when they are read: a wrong file is an error that names it,
not a traceback or a wrong number hours later."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from pandas.api import types

from .errors import UserError
from .files import atomic
from .version import provenance, remember_use

TEXT, NUMBER, MAYBE, FLAG = "text", "finite numbers", "numbers", "true or false"  # MAYBE: NaN is not known
IMAGES = {"ImageId": TEXT, "split": TEXT, "excluded": TEXT, "phash": TEXT}
FOLDS, GROUPS = {"ImageId": TEXT, "fold": NUMBER}, {"group": TEXT}
ABOUT = b"carpose"  # of the file's metadata: which code made it, and more


def write(path: str | Path, table: pd.DataFrame, **about) -> None:
    """Write to Parquet, whole or not at all; the file says which code made it, and `about` (JSON)."""
    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    metadata = {ABOUT: json.dumps(provenance() | about).encode()}
    with atomic(path) as temporary:
        pyarrow.parquet.write_table(
            content.replace_schema_metadata(content.schema.metadata | metadata), temporary
        )


def about(path: str | Path) -> dict:
    """What a file that `write` made says of itself: code, code_digest and more; {} of another file."""
    try:
        return json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(ABOUT, b"{}"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet table ({error}); make it again") from error


def read(path: str | Path, columns: dict[str, str], optional: dict[str, str] | None = None) -> pd.DataFrame:
    """columns: name → kind of what the table must have; optional: of what it may have.

    Raises UserError naming the file and what is wrong with it, and the ImageId where there is one.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet table ({error}); make it again") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"{path}: columns missing from the table: {', '.join(missing)}; is it another table?")
    for name, kind in ((optional or {}) | columns).items():
        if name in table and len(table):
            _check(path, table, name, kind)
    remember_use(path, about(path))
    return table


def content_digest(table: pd.DataFrame) -> str:
    """A hash of the rows alone: the same for a table that other code wrote."""
    hasher = hashlib.sha256("\0".join(table.columns).encode())
    hasher.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return hasher.hexdigest()[:16]


def _check(path: str | Path, table: pd.DataFrame, name: str, kind: str) -> None:
    column = table[name]
    of_kind = {TEXT: types.is_string_dtype, FLAG: types.is_bool_dtype}.get(kind, types.is_numeric_dtype)
    bad = column.isna().to_numpy() if kind in (TEXT, FLAG) else np.zeros(len(table), bool)
    if not of_kind(column) and not bad.any():
        raise UserError(f"{path}: the column {name} must hold {kind}; make the table again")
    if kind == NUMBER:
        bad = ~np.isfinite(column.to_numpy(float))
    if bad.any():
        where = "" if name == "ImageId" else f", first in image {table['ImageId'][bad].iloc[0]}"
        raise UserError(f"{path}: {bad.sum()} values of {name} are not {kind}{where}; make the table again")


def read_images(path: str | Path) -> pd.DataFrame:
    """images.parquet of the check: every photo, and why it is left out (`excluded`; empty: it is not)."""
    return _of_images(path, IMAGES)


def read_folds(path: str | Path) -> pd.DataFrame:
    """folds.parquet: the training photos, each one's fold and, where it is said, group of near-duplicates."""
    return _of_images(path, FOLDS, GROUPS)


def _of_images(
    path: str | Path, columns: dict[str, str], optional: dict[str, str] | None = None
) -> pd.DataFrame:
    table = read(path, columns, optional)
    if table.empty:
        raise UserError(f"{path}: holds no image; make it again")
    twice = table["ImageId"].duplicated()
    if twice.any():
        raise UserError(f"{path}: image {table['ImageId'][twice].iloc[0]} is there twice; make it again")
    return table
