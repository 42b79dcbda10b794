"""Photos → tables of cars: forward passes in batches, test-time views, and the fusion of the views."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carpose.config.sections import Predict
from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.data.augment import camera_rotation
from carpose.data.loader import photo_batches
from carpose.data.samples import NominalView, Photos, masked_cells
from carpose.fuse.combine import fuse
from carpose.geometry import rotation
from carpose.heads.decode import decode

from .networks import RawPrediction, flipped_forward, forward, mean

COLUMNS = [*cars.POSE, "score", "depth_sigma"]


def predict_cars(
    networks: Sequence[torch.nn.Module],
    train_config: TrainConfig,
    cache: Path,
    image_ids: list[str],
    device: torch.device,
    settings: Predict,
    *,
    workers: int = 0,
    label: str | None = None,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Cars decoded from the networks' averaged outputs, and those from each network's own outputs.

    networks: of carpose.predict.networks, all of one training configuration; cache: folder of the image
    cache; workers: processes that read photos; label: of the progress bar (None: no bar). With one network
    both results are the same table.
    """
    rotations_deg = settings.tta_rotations_deg or [[0.0, 0.0, 0.0]]
    views = []
    for number, rotation_deg in enumerate(rotations_deg, start=1):
        photos = Photos(cache, image_ids, train_config, camera_rotation(*rotation_deg))
        name = f"{label}, view {number}/{len(rotations_deg)}" if label and len(rotations_deg) > 1 else label
        views.append(predict_view(networks, photos, device, settings, workers=workers, label=name))
    averaged, *by_network = [fuse_views(tables) for tables in zip(*views, strict=True)]
    return averaged, by_network or [averaged]


def predict_view(
    networks: Sequence[torch.nn.Module],
    photos: Photos,
    device: torch.device,
    settings: Predict,
    *,
    workers: int = 0,
    label: str | None = None,
) -> list[pd.DataFrame]:
    """Tables of cars of one view: of the averaged outputs and, with several networks, of each network.

    Arguments as in predict_cars; photos: in the view to predict.
    """
    train_config, view = photos.train_config, photos.view
    forward_pass = flipped_forward if settings.flip else forward

    def predict_batch(images: torch.Tensor, names: list[str]) -> list[pd.DataFrame]:
        images = images.to(device)
        predictions = [forward_pass(network, images, train_config, device) for network in networks]
        if settings.mask_filter:
            visible = ~masked_cells(images)
            for prediction in predictions:
                prediction.heatmap = prediction.heatmap * visible[:, None]
        predictions = [mean(predictions), *(predictions if len(networks) > 1 else [])]
        limits = settings.threshold, settings.max_cars
        return [to_table(p, view, train_config, names, *limits, photos.scene) for p in predictions]

    total = -(-len(photos) // settings.batch_size)
    batches = photo_batches(photos, settings.batch_size, workers)
    bar = tqdm(batches, total=total, desc=label, disable=label is None, mininterval=5)
    parts = [predict_batch(images, names) for images, names in bar]
    empty_tables = [cars.empty(COLUMNS)] * (1 + len(networks) if len(networks) > 1 else 1)
    return [cars.concat(tables) for tables in zip(empty_tables, *parts, strict=True)]


def to_table(
    prediction: RawPrediction,
    view: NominalView,
    train_config: TrainConfig,
    image_ids: list[str],
    threshold: float,
    max_cars: int,
    scene: np.ndarray,
) -> pd.DataFrame:
    """Decode the prediction of a batch into a table of cars in the camera frame of the photos.

    threshold: the lowest score of a car; max_cars: of a photo; scene: 3×3 rotation of the camera frame in
    this view, which is undone.
    """
    intrinsics, focal = view.map_intrinsics, view.focal_reference
    at = prediction.outputs_at
    columns = decode(prediction.heatmap, at, intrinsics, focal, train_config, threshold, max_cars)
    photo, xyz, angles = (columns.pop(name) for name in ("photo", "xyz", "angles"))
    angles = rotation.angles(scene.T @ rotation.matrix(angles))
    table = pd.DataFrame(np.column_stack([angles, xyz @ scene]), columns=cars.POSE)
    table.insert(0, "ImageId", np.array(image_ids, dtype=object)[photo])
    return table.assign(score=columns.pop("score"), depth_sigma=columns.pop("depth_sigma"), **columns)


def fuse_views(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Fuse the cars that one network predicted in several views of the same photos into one table."""
    if len(tables) == 1:
        return tables[0]
    fused = fuse({str(number): table for number, table in enumerate(tables)})
    # fuse divides σ by √agreement for independent errors; those of one network's views are correlated.
    fused["depth_sigma"] = fused["depth_sigma"] * np.sqrt(fused["agreement"])
    return fused[["ImageId", *COLUMNS]]
