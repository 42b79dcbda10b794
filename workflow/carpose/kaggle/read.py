"""Readers for commands whose input may be the competition's CSV or a Parquet table of this project."""

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
    """Add the option --strict, for commands that read submissions."""
    text = "make errors of notes about what the competition accepts but this project does not write: angles "
    text += "beyond ±π, scores outside 0–1, a column of row numbers, another order, photos without a row"
    parser.add_argument("--strict", action="store_true", help=text)


@dataclass(frozen=True)
class Predictions:
    """A file of predicted cars.

    cars: the table, with score; image_ids: all photos that were predicted, in order, with or without a car;
    folds: the folds whose networks predicted. image_ids and folds are None where the file does not have them.
    """

    path: str
    cars: pd.DataFrame
    image_ids: list[str] | None
    folds: list[int] | None = None


def read_truth(path: str | Path) -> pd.DataFrame:
    """True cars from a file like train.csv or a Parquet table. Raises UserError as the reader of the file."""
    return cars.read(path) if Path(path).suffix == ".parquet" else read_labels(path)[0]


def read_predictions(path: str | Path, strict: bool = False) -> Predictions:
    """A submission CSV, with all numbers as they are written, or a Parquet table of cars with score.

    Raises UserError where a car would be invalid in a submission. strict: also where a CSV has what the
    competition accepts and this project does not write (see read_submission); otherwise that is a note.
    """
    if Path(path).suffix == ".csv":
        return Predictions(str(path), *read_submission(path, strict))
    table = cars.read(path, scored=True)
    stop_or_note(pose_findings(path, table))
    about = parquet.about(path)
    return Predictions(str(path), table, about.get("image_ids"), about.get("folds"))


def read_members(arguments: Iterable[str], strict: bool = False) -> dict[str, Predictions]:
    """Arguments of an option NAME=PATH … → predictions by name, with scores scaled to 0–1. strict: as for
    read_predictions."""
    paths = named_paths(arguments)
    return {name: _in_range(read_predictions(path, strict)) for name, path in paths.items()}


def _in_range(member: Predictions) -> Predictions:
    """If a score is outside [0, 1], all scores of the member are scaled linearly to this range."""
    low, high = score_range(member.cars["score"])
    if (low, high) == (0, 1):
        return member
    return replace(member, cars=member.cars.assign(score=(member.cars["score"] - low) / (high - low)))


def tables_of(members: Mapping[str, Predictions]) -> dict[str, pd.DataFrame]:
    """The members' cars alone, by name."""
    return {name: member.cars for name, member in members.items()}


def images_of(members: Mapping[str, Predictions]) -> list[str]:
    """All photos that the members predicted, in order of appearance. Of a file that does not list its photos,
    those with a car."""
    ids = (m.cars["ImageId"] if m.image_ids is None else m.image_ids for m in members.values())
    return list(dict.fromkeys(itertools.chain.from_iterable(ids)))


def check_coverage(members: Mapping[str, Predictions], image_ids: Iterable[str]) -> None:
    """Raises UserError where a member lists the photos it predicted and any of `image_ids` is not among them.
    Such photos would be scored as predictions without a car."""
    needed = pd.Index(image_ids)
    for member in members.values():
        missing = unpredicted_photos(member, needed)
        if len(missing):
            text = f"{len(missing)} of {len(needed)} photos were not predicted, first {missing[0]}"
            advice = "predict again with the current photos and folds (snakemake … -R predict)"
            if Path(member.path).suffix == ".csv":
                advice = "add a row for every photo"
            raise UserError(f"{member.path}: {text}; {advice}")


def check_out_of_fold(members: Mapping[str, Predictions], folds: pd.DataFrame) -> None:
    """Raises UserError where a member did not predict all photos of `folds` (ImageId, fold), or a photo was
    predicted by another fold's network, which was trained on it."""
    check_coverage(members, folds["ImageId"])
    fold_of = folds.set_index("ImageId")["fold"]
    for member in members.values():
        table = member.cars[member.cars["ImageId"].isin(fold_of.index)]
        if "fold" not in table:
            continue
        wrong = table[table["fold"].to_numpy() != fold_of[table["ImageId"]].to_numpy()]
        if len(wrong):
            image_id, fold = wrong["ImageId"].iloc[0], wrong["fold"].iloc[0]
            text = f"{wrong['ImageId'].nunique()} photos were predicted by a network that was trained on them"
            example = f"image {image_id} by fold {fold:g}'s, but it is in fold {fold_of[image_id]:g}"
            advice = "train and predict again with the current folds (snakemake … -R train)"
            raise UserError(f"{member.path}: {text}, such as {example}; {advice}")


def unpredicted_photos(member: Predictions, image_ids: Iterable[str]) -> pd.Index:
    """The photos of `image_ids` that a member did not predict; none if it does not list its photos."""
    index = pd.Index(image_ids)
    return index[:0] if member.image_ids is None else index[~index.isin(member.image_ids)]


def check_same_photos(path: str | Path, table: pd.DataFrame, image_ids: Iterable[str]) -> None:
    """Raises UserError where the table, read from `path`, has cars but none on these photos."""
    index = pd.Index(image_ids)
    if len(table) and not table["ImageId"].isin(index).any():
        text = f"none of its {len(table)} cars is on one of the {len(index)} photos of the other files"
        raise UserError(f"{path}: {text}, such as {index[0]}; name files of the same photos")


def read_image_ids(path: str | Path) -> list[str]:
    """The distinct values of the column ImageId of a CSV or Parquet file, in order of appearance.

    Raises UserError where the file cannot be read or has no such column.
    """
    try:
        table = parquet.load(path)[0] if Path(path).suffix == ".parquet" else pd.read_csv(path, dtype=str)
        return list(table["ImageId"].unique())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: the column ImageId cannot be read ({error})") from error


def read_test_images(path: str | Path, excluded: bool = True) -> list[str]:
    """The test photos in images.parquet of the check, in the order of sample_submission.csv.

    excluded: whether to include excluded photos. Raises UserError where there is no test photo.
    """
    all_photos, used_photos = split_test_images(path)
    return all_photos if excluded else used_photos


def split_test_images(path: str | Path) -> tuple[list[str], list[str]]:
    """The same photos: all of them, and those that are not excluded."""
    images = parquet.read_images(path)
    images = images[images["split"] == "test"]
    if images.empty:
        raise UserError(f"{path}: names no test photo; give images.parquet of the check")
    return images["ImageId"].tolist(), images.loc[images["excluded"] == "", "ImageId"].tolist()


def read_order(sample: str | Path | None, images: str | Path | None) -> list[str]:
    """The images of a submission in order, from sample_submission.csv or, without it, images.parquet."""
    if sample:
        return read_sample(sample)
    assert images is not None  # the options require one of the two
    return read_test_images(images)
