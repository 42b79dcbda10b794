"""Readers of the tables that commands are given by path: the competition's CSV, or Parquet of a stage."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.options import named_paths

from .tables import invalid_poses, read_labels, read_sample, read_submission, stop_at_first


@dataclass(frozen=True)
class Predictions:
    """A file of predicted cars.

    cars: the table, with score; image_ids: the photos that were looked at, in order, also those without a
    car; None where the file does not say.
    """

    path: str
    cars: pd.DataFrame
    image_ids: list[str] | None


def read_truth(path: str | Path) -> pd.DataFrame:
    """True cars from a file like train.csv or a Parquet table."""
    return cars.read(path) if Path(path).suffix == ".parquet" else read_labels(path)[0]


def read_predictions(path: str | Path) -> Predictions:
    """A submission CSV, or a Parquet table of cars with score.

    Raises UserError where a car could not be sent.
    """
    if Path(path).suffix == ".csv":
        return Predictions(str(path), *read_submission(path))
    table = cars.read(path, scored=True)
    stop_at_first(invalid_poses(path, table))
    return Predictions(str(path), table, parquet.about(path).get("image_ids"))


def read_members(arguments: Iterable[str]) -> dict[str, Predictions]:
    """Arguments of an option NAME=PATH … → predictions by name."""
    return {name: read_predictions(path) for name, path in named_paths(arguments).items()}


def tables_of(members: Mapping[str, Predictions]) -> dict[str, pd.DataFrame]:
    """The members' cars alone, by name."""
    return {name: member.cars for name, member in members.items()}


def images_of(members: Mapping[str, Predictions]) -> list[str]:
    """All photos that the members looked at, in order of appearance; of a file that does not say, those in
    which it found a car."""
    ids = (m.cars["ImageId"] if m.image_ids is None else m.image_ids for m in members.values())
    return list(dict.fromkeys(itertools.chain.from_iterable(ids)))


def check_coverage(members: Mapping[str, Predictions], image_ids: Iterable[str]) -> None:
    """Raises UserError where a member says which photos it looked at, and some of `image_ids` are not among
    them: they would count as photos in which nothing was found."""
    image_ids = pd.Index(image_ids)
    for member in members.values():
        missing = image_ids[~image_ids.isin(image_ids if member.image_ids is None else member.image_ids)]
        if len(missing):
            text = f"{len(missing)} of {len(image_ids)} photos were not predicted, first {missing[0]}"
            advice = "it is of other photos or folds: predict again (snakemake … -R predict)"
            if Path(member.path).suffix == ".csv":
                advice = "give it a row for every photo"
            raise UserError(f"{member.path}: {text}; {advice}")


def check_same_photos(path: str | Path, table: pd.DataFrame, image_ids: Iterable[str]) -> None:
    """Raises UserError where the table of a file has cars, and none of them on one of these photos."""
    image_ids = pd.Index(image_ids)
    if len(table) and not table["ImageId"].isin(image_ids).any():
        where = f"none of its {len(table)} cars is on one of the {len(image_ids)} photos that are asked about"
        raise UserError(f"{path}: {where}, such as {image_ids[0]}; name files that are about the same photos")


def read_image_ids(path: str | Path) -> list[str]:
    """The column ImageId of a CSV or Parquet file, each once."""
    try:
        table = pd.read_parquet(path) if Path(path).suffix == ".parquet" else pd.read_csv(path, dtype=str)
        return list(table["ImageId"].unique())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no column ImageId can be read from it ({error})") from error


def read_test_images(path: str | Path, excluded: bool = True) -> list[str]:
    """The test photos in images.parquet of the check, in the order of sample_submission.csv.

    excluded: with those that are left out. Raises UserError where there is none.
    """
    images = parquet.read_images(path)
    images = images[images["split"] == "test"]
    if not excluded:
        images = images[images["excluded"] == ""]
    if images.empty:
        raise UserError(f"{path}: names no test photo; it must be images.parquet of the check")
    return images["ImageId"].tolist()


def read_order(sample: str | Path | None, images: str | Path | None) -> list[str]:
    """The images of a submission in order, from sample_submission.csv or else from images.parquet."""
    return read_sample(sample) if sample else read_test_images(images)
