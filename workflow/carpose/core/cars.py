"""The one table. Labels, predictions, pseudo labels and fused results are all a table of cars.

Columns: ImageId (str); pitch, yaw, roll (radians) and x, y, z (metres) in the camera frame
(x right, y down, z forward). Where they apply also: score (0–1), model_type and fold (int), depth_sigma (the
standard deviation of log z, NaN where not known); of a fused car agreement (how many members saw it) and
above_threshold (whether to keep it for the leaderboard, which ignores scores); of a pseudo label weight (0–1)
and role (positive or ignore). An image without cars has no row.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from . import parquet
from .errors import UserError

ANGLES = ["pitch", "yaw", "roll"]
POSITION = ["x", "y", "z"]
POSE = ANGLES + POSITION
OTHERS = {
    **dict.fromkeys(["score", "model_type", "fold", "weight", "agreement"], parquet.NUMBER),
    "depth_sigma": parquet.MAYBE,
    "above_threshold": parquet.FLAG,
    "role": parquet.TEXT,
}


def empty(columns: list[str] = POSE) -> pd.DataFrame:
    """A table without cars: ImageId and `columns` (floats)."""
    table = pd.DataFrame({"ImageId": pd.Series([], dtype=str)})
    return table.assign(**{column: pd.Series([], dtype=float) for column in columns})


def concat(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of cars; empty ones do not disturb the column types."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return tables[0].copy() if tables else empty()
    return pd.concat(filled, ignore_index=True)


def write(
    path: str | Path,
    table: pd.DataFrame,
    image_ids: Iterable[str] | None = None,
    folds: Iterable[int] | None = None,
) -> None:
    """Write to Parquet, whole or not at all.

    image_ids, folds: the photos, and the folds, that the table is about, kept in the file's `about`: one
    without cars has no row.
    Raises UserError where a pose is not finite: better here than in a submission.
    """
    bad = ~np.isfinite(table[POSE].to_numpy(float)).all(axis=1)
    if bad.any():
        image_id = table.loc[bad, "ImageId"].iloc[0]
        raise UserError(f"{path}: {bad.sum()} cars with a pose that is not finite, first in image {image_id}")
    about = {name: list(ids) for name, ids in (("image_ids", image_ids), ("folds", folds)) if ids is not None}
    parquet.write(path, table, **about)


def read(path: str | Path, scored: bool = False, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table written by `write`.

    scored: predictions are needed; columns: what else must be there, as carpose.core.parquet names it.
    Raises UserError where the file, a column or a number is not right.
    """
    needed = {"ImageId": parquet.TEXT, **dict.fromkeys(POSE, parquet.NUMBER), **(columns or {})}
    table = parquet.read(path, needed, OTHERS)
    if scored and "score" not in table:
        raise UserError(f"{path}: no column score; predictions are needed here, not labels")
    return table
