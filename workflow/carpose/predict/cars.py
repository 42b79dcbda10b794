"""Photos → tables of cars: batches through the networks, views of a turned camera, and their fusion."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carpose.config.sections import Predict
from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.data.augment import turned
from carpose.data.loader import photo_batches
from carpose.data.samples import Photos, View, masked_cells
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
    """Cars from what all networks say on average, and from what each says by itself.

    networks: of carpose.predict.networks, all of one recipe; cache: folder; workers: processes that read
    photos; label: name of the progress bar, None shows none.
    """
    turns = settings.tta_rotations_deg or [[0.0, 0.0, 0.0]]
    views = []
    for number, turn in enumerate(turns, start=1):
        photos = Photos(cache, image_ids, train_config, turned(*turn))
        name = f"{label}, view {number}/{len(turns)}" if label and len(turns) > 1 else label
        views.append(predict_view(networks, photos, device, settings, workers=workers, label=name))
    together, *alone = [fuse_views(tables) for tables in zip(*views, strict=True)]
    return together, alone or [together]


def predict_view(
    networks: Sequence[torch.nn.Module],
    photos: Photos,
    device: torch.device,
    settings: Predict,
    *,
    workers: int = 0,
    label: str | None = None,
) -> list[pd.DataFrame]:
    """Tables of cars by all networks together and, if there are several, by each; as `predict_cars`."""
    train_config, view = photos.train_config, photos.view
    run = flipped_forward if settings.flip else forward

    def predict_batch(pictures: torch.Tensor, names: list[str]) -> list[pd.DataFrame]:
        pictures = pictures.to(device)
        predictions = [run(network, pictures, train_config, device) for network in networks]
        if settings.mask_filter:
            visible = ~masked_cells(pictures)
            for prediction in predictions:
                prediction.heatmap = prediction.heatmap * visible[:, None]
        predictions = [mean(predictions), *(predictions if len(networks) > 1 else [])]
        return [to_table(p, view, train_config, names, settings.threshold, photos.scene) for p in predictions]

    total = -(-len(photos) // settings.batch_size)
    batches = photo_batches(photos, settings.batch_size, workers)
    bar = tqdm(batches, total=total, desc=label, disable=label is None, mininterval=5)
    parts = [predict_batch(pictures, names) for pictures, names in bar]
    none = [cars.empty(COLUMNS)] * (1 + len(networks) if len(networks) > 1 else 1)
    return [cars.concat(tables) for tables in zip(none, *parts, strict=True)]


def to_table(
    prediction: RawPrediction,
    view: View,
    train_config: TrainConfig,
    image_ids: list[str],
    threshold: float,
    scene: np.ndarray,
) -> pd.DataFrame:
    """A batch → table of cars in the photo's own camera frame; scene: how that was turned."""
    intrinsics, focal = view.map_intrinsics, view.focal_reference
    columns = decode(prediction.heatmap, prediction.poses, intrinsics, focal, train_config, threshold)
    picture, xyz, angles = (columns.pop(name) for name in ("picture", "xyz", "angles"))
    angles = rotation.angles(scene.T @ rotation.matrix(angles))
    table = pd.DataFrame(np.column_stack([angles, xyz @ scene]), columns=cars.POSE)
    table.insert(0, "ImageId", np.array(image_ids, dtype=object)[picture])
    return table.assign(score=columns.pop("score"), depth_sigma=columns.pop("depth_sigma"), **columns)


def fuse_views(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The cars that one network found in several views of the same photos, as one table."""
    if len(tables) == 1:
        return tables[0]
    fused = fuse({str(number): table for number, table in enumerate(tables)})
    # The views' errors are one network's and go together: two are hardly surer than one.
    fused["depth_sigma"] = fused["depth_sigma"] * np.sqrt(fused["agreement"])
    return fused[["ImageId", *COLUMNS]]
