"""The table of cars: the one format of labels, predictions, pseudo labels and fused results.

Columns: ImageId (str); pitch, yaw, roll (radians) and x, y, z (metres) in the camera frame
(x right, y down, z forward). Depending on the table also: score (0–1), model_type and fold (int), depth_sigma
(the standard deviation of log z, NaN where unknown). A fused car has agreement (the number of members that
detected it) and above_threshold (whether to keep it for the leaderboard, which ignores scores). A pseudo
label has weight (its sample weight, 0–1) and role (positive or ignore). An image without cars has no row.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from . import parquet
from .errors import UserError
from .files import atomic

ANGLES = ["pitch", "yaw", "roll"]
POSITION = ["x", "y", "z"]
POSE = ANGLES + POSITION
OPTIONAL_COLUMNS = {
    **dict.fromkeys(["score", "model_type", "fold", "weight", "agreement"], parquet.NUMBER),
    "depth_sigma": parquet.NUMBER_OR_NAN,
    "above_threshold": parquet.FLAG,
    "role": parquet.TEXT,
}


def empty(columns: list[str] = POSE) -> pd.DataFrame:
    """A table without cars: ImageId and `columns` (floats)."""
    table = pd.DataFrame({"ImageId": pd.Series([], dtype=str)})
    return table.assign(**{column: pd.Series([], dtype=float) for column in columns})


def concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of cars. Empty tables are skipped: they would change the column types."""
    not_empty = [table for table in tables if len(table)]
    if not not_empty:
        return tables[0].copy() if tables else empty()
    return pd.concat(not_empty, ignore_index=True)


def write(
    path: str | Path,
    table: pd.DataFrame,
    image_ids: Iterable[str] | None = None,
    folds: Iterable[int] | None = None,
) -> None:
    """Write to Parquet; an interrupted write leaves no file.

    image_ids, folds: the photos and the folds that the table covers. They are kept in the file's metadata,
    since a photo without cars has no row. Raises UserError where a pose is not finite.
    """
    _check_finite(path, table)
    about = {name: list(ids) for name, ids in (("image_ids", image_ids), ("folds", folds)) if ids is not None}
    parquet.write(path, table, **about)


def _check_finite(path: str | Path, table: pd.DataFrame) -> None:
    bad = ~np.isfinite(table[POSE].to_numpy(float)).all(axis=1)
    if bad.any():
        image_id = table.loc[bad, "ImageId"].iloc[0]
        text = f"not written: {bad.sum()} cars have a pose that is not finite, first in image {image_id}"
        raise UserError(f"{path}: {text}")


def read(path: str | Path, scored: bool = False, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table written by `write`.

    scored: whether the column score is required; columns: further required columns, name → content as in
    carpose.core.parquet. Raises UserError where the file cannot be read, lacks a column or holds an invalid
    value.
    """
    required = {"ImageId": parquet.TEXT, **dict.fromkeys(POSE, parquet.NUMBER), **(columns or {})}
    table = parquet.read(path, required, OPTIONAL_COLUMNS)
    if scored and "score" not in table:
        raise UserError(f"{path}: no column score; predictions are needed here, not labels")
    return table


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write as CSV with a header, a row per car, nine digits. Raises UserError as `write`."""
    _check_finite(path, table)
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table written by `write_csv`, or by hand with the same columns. Raises UserError as `read`."""
    try:
        table = pd.read_csv(path, dtype={"ImageId": str})
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from error
    required = {"ImageId": parquet.TEXT, **dict.fromkeys(POSE, parquet.NUMBER)}
    parquet.check(path, table, required, OPTIONAL_COLUMNS)
    return table
