"""Any photos of one camera: one or several checkpoints, and no data set → a table of cars, and pictures.

Each photo is mapped exactly to the camera that the networks were trained with. Networks of one training
configuration, such as the folds of a model, are averaged; different ones are fused. With --fit they are fused
by what the workflow fitted, which knows the checkpoints in its folders (round0/dla34/fold0/model.pt) by their
names; give others as NAME=PATH.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carpose.config.options import add_options, from_options
from carpose.config.sections import Predict
from carpose.core import cars, pictures
from carpose.core.errors import UserError
from carpose.core.files import atomic, check_outputs
from carpose.core.options import int_at_least
from carpose.data.augment import camera_rotation
from carpose.data.photo_files import LoadedPhotos, check_camera, check_photos, find_photos
from carpose.fuse.combine import fuse
from carpose.fuse.fitted import Fit, read_fit
from carpose.geometry import camera
from carpose.network.device import acquire_device, worker_count

from .cars import fuse_views, predict_view
from .members import Member, load_members

SETTINGS = ("batch_size", "max_cars", "runtime")  # keys of `predict:` that become options as they are
# As in config.yaml (tested), but for masks, which these photos do not have.
DEFAULTS = Predict(flip=True, tta_rotations_deg=[[0.0, 0.5, 0.0], [0.0, -0.5, 0.0]])
THRESHOLD = 0.3  # lowest score of a car in the table, where no fit says one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, metavar="[NAME=]PATH", help="model.pt of carpose.train"
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="files, or folders with photos in them"
    )
    parser.add_argument(
        "--intrinsics",
        type=Path,
        required=True,
        help="camera_intrinsic.txt: lines fx = …, fy, cx, cy, in pixels",
    )
    parser.add_argument("--output", type=Path, required=True, help="table of cars, .csv or .parquet")
    parser.add_argument("--overlays", type=Path, help="folder for a picture of each photo with its cars")
    parser.add_argument("--fit", type=Path, help="fusion.json of carpose.fuse.fit")
    parser.add_argument(
        "--threshold",
        type=float,
        default=argparse.SUPPRESS,
        help=f"lowest score of a car in the table; by default the fit's, or {THRESHOLD} without one",
    )
    parser.add_argument(
        "--flip",
        choices=["true", "false"],
        default="true",
        help="average with the mirror image; twice the time",
    )
    parser.add_argument(
        "--tta-rotations-deg",
        type=float,
        nargs=3,
        action="append",
        default=argparse.SUPPRESS,
        metavar=("PAN", "TILT", "ROLL"),
        help="one test-time view, degrees; repeat the option for more; by default the two of config.yaml",
    )
    cores = worker_count(256)
    parser.add_argument(
        "--threads", type=int_at_least(1), default=cores, help="threads of the network on the CPU"
    )
    parser.add_argument("--gpus", type=int_at_least(0), default=1, help="0: compute on the CPU")
    add_options(parser, Predict, SETTINGS)


def run(args: argparse.Namespace) -> int:
    if args.output.suffix not in (".csv", ".parquet"):
        raise UserError(f"--output {args.output}: name it .csv or .parquet")
    threshold = getattr(args, "threshold", None)
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g}: a score is between 0 and 1")
    settings = from_options(args, Predict, SETTINGS)
    settings = replace(
        settings,
        threshold=min(settings.threshold, settings.threshold if threshold is None else threshold),
        flip=args.flip == "true",
        tta_rotations_deg=getattr(args, "tta_rotations_deg", DEFAULTS.tta_rotations_deg),
    )
    torch.set_num_threads(args.threads)
    check_outputs(args.output)
    intrinsics = camera.read_intrinsics(args.intrinsics)
    fit = read_fit(args.fit) if args.fit else None
    photos = find_photos(args.photos)
    size = check_photos(photos, "check")
    with acquire_device(args.gpus) as device:
        members = load_members(args.checkpoint, device, settings.runtime)
        check_names(members, fit)
        for member in members:
            check_camera(size, intrinsics, member.camera, member.train_config)
        tables = predict_members(members, photos, intrinsics, device, settings, label="photos")
    table = fuse_members(tables, fit, threshold)
    if args.output.suffix == ".csv":
        cars.write_csv(args.output, table)
    else:
        cars.write(args.output, table, image_ids=photos)
    without = len(photos) - table["ImageId"].nunique()
    none = f", none on {without} of them" if without else ""
    print(f"{args.output}: {len(table)} cars on {len(photos)} photos{none}")
    if args.overlays:
        write_overlays(args.overlays, photos, intrinsics, table)
    return 0


def check_names(members: Sequence[Member], fit: Fit | None) -> None:
    """Raises UserError where a member is not in the fit."""
    unknown = [member.name for member in members if fit and member.name not in fit.members]
    if fit and unknown:
        text = f"has no member {unknown[0]}, only {', '.join(fit.members)}"
        raise UserError(f"--fit: it {text}; give each checkpoint as NAME=PATH with one of these names")


def predict_members(
    members: Sequence[Member],
    photos: dict[str, Path],
    intrinsics: np.ndarray,
    device: torch.device,
    settings: Predict,
    *,
    label: str | None = None,
) -> dict[str, pd.DataFrame]:
    """The cars of each member, in the camera's frame, by member name.

    photos: ImageId → file; intrinsics: 3×3 of their camera; settings: as for `predict_cars`, without
    mask_filter; label: name of the progress bar, None shows none. Photos are read once, some at a time.
    """
    turns = settings.tta_rotations_deg or [[0.0, 0.0, 0.0]]
    tables: dict[str, list[pd.DataFrame]] = {member.name: [] for member in members}
    with tqdm(total=len(photos), desc=label, disable=label is None, unit="photo", mininterval=2) as bar:
        for image_ids in chunks(list(photos), settings.batch_size):
            images = [pictures.read(photos[image_id]) for image_id in image_ids]
            for member in members:
                cached = [member.camera.cached(image, intrinsics) for image in images]
                views = []
                for turn in turns:
                    loaded = LoadedPhotos(
                        cached, image_ids, member.train_config, member.camera, camera_rotation(*turn)
                    )
                    views.append(predict_view(member.networks, loaded, device, settings)[0])
                tables[member.name].append(fuse_views(views))
            bar.update(len(image_ids))
    return {name: cars.concat(parts) for name, parts in tables.items()}


def chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def fuse_members(
    tables: dict[str, pd.DataFrame], fit: Fit | None = None, threshold: float | None = None
) -> pd.DataFrame:
    """The members' cars as one table, those with at least this score (default: the fit's threshold, or
    THRESHOLD), by image and falling score."""
    if fit is None and len(tables) == 1:
        [table] = tables.values()
    else:
        table = fuse(tables, fit)
    above = table.pop("above_threshold") if "above_threshold" in table else None
    if fit is None or threshold is not None:
        above = table["score"] >= (THRESHOLD if threshold is None else threshold)
    return table[above].sort_values(["ImageId", "score"], ascending=[True, False], ignore_index=True)


def write_overlays(
    folder: Path, photos: dict[str, Path], intrinsics: np.ndarray, table: pd.DataFrame
) -> None:
    """A picture FOLDER/ImageId.jpg of each photo (file by ImageId) with its cars, and from above."""
    from carpose.drawing.layers import PREDICTED  # here: Matplotlib takes a second to import
    from carpose.drawing.overlay import overlay_figure

    for image_id, path in tqdm(photos.items(), desc="overlays", unit="photo", mininterval=2):
        layers = [(table[table["ImageId"] == image_id], PREDICTED)]
        figure = overlay_figure(pictures.read(path), intrinsics, layers, image_id)
        with atomic(folder / f"{image_id}.jpg") as temporary:
            figure.savefig(temporary)
