"""The one table. Labels, predictions, pseudo labels and fused results are all a table of cars.

Columns: ImageId (str); pitch, yaw, roll (radians) and x, y, z (metres) in the camera frame
(x right, y down, z forward). Where they apply also: score (0–1), model_type (int), fold (int) and
depth_sigma (the standard deviation of log z). An image without cars has no row.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from . import UserError
from .files import atomic

ANGLES = ["pitch", "yaw", "roll"]
POSITION = ["x", "y", "z"]
POSE = ANGLES + POSITION


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


def write(path: str | Path, table: pd.DataFrame) -> None:
    """Write to Parquet, whole or not at all.

    Raises UserError where a pose is not finite: better here than in a submission.
    """
    bad = ~np.isfinite(table[POSE].to_numpy(float)).all(axis=1)
    if bad.any():
        image_id = table.loc[bad, "ImageId"].iloc[0]
        raise UserError(f"{path}: {bad.sum()} cars with a pose that is not finite, first in image {image_id}")
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read(path: str | Path, scored: bool = False) -> pd.DataFrame:
    """Read a table written by `write`. Raises UserError where a column of the pose is missing, or, where
    predictions are needed, the score."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable table of cars ({error}); make it again") from error
    missing = [column for column in ["ImageId", *POSE] if column not in table]
    if missing:
        raise UserError(f"{path}: columns missing from the table of cars: {', '.join(missing)}")
    if scored and "score" not in table:
        raise UserError(f"{path}: no column score; predictions are needed here, not labels")
    return table
