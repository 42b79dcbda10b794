"""Tables in text files, which programs wrote or people edit."""

from pathlib import Path

import pandas as pd

from .errors import UserError


def read_csv(path: str | Path, **options: str | dict) -> pd.DataFrame:
    """The table of a CSV file; options: of pandas.read_csv. Raises UserError where it cannot be read."""
    try:
        return pd.read_csv(path, **options)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as a CSV table ({error})") from error
