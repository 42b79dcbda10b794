"""One photo with the cars of any table: its command."""

import argparse
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from carpose.core import cars, parquet, pictures
from carpose.core.errors import UserError
from carpose.drawing.layers import PREDICTED, TRUE
from carpose.drawing.outlines import CarModels
from carpose.drawing.overlay import overlay_figure
from carpose.geometry import camera
from carpose.kaggle.read import read_predictions
from carpose.kaggle.tables import HEADER, read_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photo", type=Path, required=True, help="its name without the suffix is the ImageId"
    )
    formats = "Parquet or CSV with a column for each number, or CSV like"
    parser.add_argument("--cars", type=Path, help=f"predicted cars: {formats} a submission")
    parser.add_argument("--truth", type=Path, help=f"true cars: {formats} train.csv")
    parser.add_argument("--threshold", type=float, default=0.0, help="lowest score of a predicted car")
    parser.add_argument(
        "--meshes",
        type=Path,
        help="draw outlines instead of boxes: a mesh for all cars, or a folder of meshes by model_type "
        "(car_models_json, with car_model_ids.csv in it or beside it)",
    )
    parser.add_argument("--mesh-ids", type=Path, help="car_model_ids.csv, where it is elsewhere")
    parser.add_argument("--intrinsics", type=Path, required=True, help="camera_intrinsic.txt of this photo")
    parser.add_argument("--output", type=Path, required=True, help="picture to write, .png or .jpg")


def overlay(args: argparse.Namespace) -> Figure:
    if not (args.cars or args.truth):
        raise UserError("nothing to draw: give a table of cars with --cars or --truth")
    layers = []
    if args.truth:
        layers.append((cars_on(args.photo, *read_cars(args.truth, labels=True), args.truth), TRUE))
    if args.cars:
        table = cars_on(args.photo, *read_cars(args.cars), args.cars)
        if "above_threshold" in table:
            table = table[table["above_threshold"].astype(bool)]
        if "score" in table:
            table = table[table["score"] >= args.threshold]
        layers.append((table, PREDICTED))
    models = CarModels(args.meshes, args.mesh_ids) if args.meshes else None
    intrinsics = camera.read_intrinsics(args.intrinsics)
    return overlay_figure(pictures.read(args.photo), intrinsics, layers, args.photo.stem, models)


def read_cars(path: Path, labels: bool = False) -> tuple[pd.DataFrame, list[str] | None]:
    """Any table of cars, and the photos that it is about where it says so.

    labels: what a CSV of the competition is like, train.csv or a submission.
    """
    if path.suffix == ".parquet":
        return cars.read(path), parquet.about(path).get("image_ids")
    try:
        header = path.open(encoding="utf-8-sig").readline()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a CSV text file ({error})") from error
    if HEADER[1] not in header:
        return cars.read_csv(path), None
    if labels:
        return read_labels(path)
    predictions = read_predictions(path)
    return predictions.cars, predictions.image_ids


def cars_on(photo: Path, table: pd.DataFrame, image_ids: list[str] | None, path: Path) -> pd.DataFrame:
    """The cars of one photo. Raises UserError where the table says that it is about others; where it does not
    say, a photo without cars is a note."""
    cars_of = table[table["ImageId"] == photo.stem]
    if cars_of.empty and photo.stem not in (image_ids or []):
        text = f"has no car on {photo.stem}, the name of the photo"
        if image_ids is not None:
            raise UserError(f"{path}: {text}, and is not about it; its photos are {image_ids[0]} …")
        print(f"note: {path}: {text}", file=sys.stderr)
    return cars_of
