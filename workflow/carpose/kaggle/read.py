"""Readers of the tables that commands are given by path: the competition's CSV, or Parquet of a stage."""

import argparse
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.options import named_paths

from .tables import (
    pose_findings,
    read_labels,
    read_sample,
    read_submission,
    score_range,
    stop_or_note,
)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """The option of commands that read submissions."""
    text = "refuse what the competition takes but this project does not write, instead of a note: angles "
    text += "beyond ±π, scores outside 0–1, a column of row numbers, another order, photos without a row"
    parser.add_argument("--strict", action="store_true", help=text)


@dataclass(frozen=True)
class Predictions:
    """A file of predicted cars.

    cars: the table, with score; image_ids: the photos that were looked at, in order, also those without a
    car, folds: whose networks predicted; None where the file does not say.
    """

    path: str
    cars: pd.DataFrame
    image_ids: list[str] | None
    folds: list[int] | None = None


def read_truth(path: str | Path) -> pd.DataFrame:
    """True cars from a file like train.csv or a Parquet table."""
    return cars.read(path) if Path(path).suffix == ".parquet" else read_labels(path)[0]


def read_predictions(path: str | Path, strict: bool = False) -> Predictions:
    """A submission CSV, all numbers as written, or a Parquet table of cars with score.

    Raises UserError where a car could not be sent. strict: also where a CSV has what the competition takes
    and this project does not write (see read_submission); else that is a note.
    """
    if Path(path).suffix == ".csv":
        return Predictions(str(path), *read_submission(path, strict))
    table = cars.read(path, scored=True)
    stop_or_note(pose_findings(path, table))
    about = parquet.about(path)
    return Predictions(str(path), table, about.get("image_ids"), about.get("folds"))


def read_members(arguments: Iterable[str], strict: bool = False) -> dict[str, Predictions]:
    """Arguments of an option NAME=PATH … → predictions by name, with scores within 0–1, whatever a CSV has.
    strict: as for read_predictions."""
    paths = named_paths(arguments)
    return {name: _in_range(read_predictions(path, strict)) for name, path in paths.items()}


def _in_range(member: Predictions) -> Predictions:
    """Where a score is outside [0, 1], all are scaled linearly to it, in their order."""
    low, high = score_range(member.cars["score"])
    if (low, high) == (0, 1):
        return member
    return replace(member, cars=member.cars.assign(score=(member.cars["score"] - low) / (high - low)))


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
        missing = unpredicted_photos(member, image_ids)
        if len(missing):
            text = f"{len(missing)} of {len(image_ids)} photos were not predicted, first {missing[0]}"
            advice = "it is of other photos or folds: predict again (snakemake … -R predict)"
            if Path(member.path).suffix == ".csv":
                advice = "give it a row for every photo"
            raise UserError(f"{member.path}: {text}; {advice}")


def check_out_of_fold(members: Mapping[str, Predictions], folds: pd.DataFrame) -> None:
    """Raises UserError where a member did not look at all photos of `folds` (ImageId, fold), or says that a
    car is from another fold's network, which has learnt from the photo."""
    check_coverage(members, folds["ImageId"])
    fold_of = folds.set_index("ImageId")["fold"]
    for member in members.values():
        table = member.cars[member.cars["ImageId"].isin(fold_of.index)]
        if "fold" not in table:
            continue
        wrong = table[table["fold"].to_numpy() != fold_of[table["ImageId"]].to_numpy()]
        if len(wrong):
            image_id, fold = wrong["ImageId"].iloc[0], wrong["fold"].iloc[0]
            text = f"{wrong['ImageId'].nunique()} photos are predicted by a network that has learnt from them"
            where = f"image {image_id} by fold {fold:g}'s, but it is in fold {fold_of[image_id]:g}"
            advice = "train and predict again with these folds (snakemake … -R train)"
            raise UserError(f"{member.path}: {text}, such as {where}; {advice}")


def unpredicted_photos(member: Predictions, image_ids: Iterable[str]) -> pd.Index:
    """Those of the photos that a member did not look at; none where it does not say."""
    image_ids = pd.Index(image_ids)
    return image_ids[:0] if member.image_ids is None else image_ids[~image_ids.isin(member.image_ids)]


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
    every, predicted = split_test_images(path)
    return every if excluded else predicted


def split_test_images(path: str | Path) -> tuple[list[str], list[str]]:
    """All of these photos, and those of them that are not left out."""
    images = parquet.read_images(path)
    images = images[images["split"] == "test"]
    if images.empty:
        raise UserError(f"{path}: names no test photo; it must be images.parquet of the check")
    return images["ImageId"].tolist(), images.loc[images["excluded"] == "", "ImageId"].tolist()


def read_order(sample: str | Path | None, images: str | Path | None) -> list[str]:
    """The images of a submission in order, from sample_submission.csv or else from images.parquet."""
    return read_sample(sample) if sample else read_test_images(images)
