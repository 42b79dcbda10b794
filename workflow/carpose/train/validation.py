"""The losses of the photos that a training does not learn from. Where they rise while its own losses fall, it
overfits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from carpose.config.train_config import TrainConfig
from carpose.data.samples import Samples, network_input
from carpose.heads import loss
from carpose.network.device import autocast_dtype

BATCH_SIZE = 8  # photos; only the main process has to hold them
PREFIX = "valid_"  # of the columns in history.csv


def validation_losses(
    model: torch.nn.Module,
    train_config: TrainConfig,
    cache: Path,
    image_ids: Sequence[str],
    cars: pd.DataFrame,
    device: torch.device,
) -> dict[str, float]:
    """The unweighted losses of the network's last stack on these photos, without augmentation, by PREFIX and
    name; the weighted sum comes first, as valid_loss.

    model: in evaluation mode, on the device; cache: folder; cars: labels as of carpose.train.loop.Tables.
    """
    plain = replace(train_config, flip=0.0, rotate_deg=[0.0] * 3, zoom=0.0, shift=0.0, colour=0.0)
    samples = Samples(cache, list(image_ids), cars, plain)
    dtype, loss_weights = autocast_dtype(device, train_config.amp), loss.loss_weights(train_config)
    sums = dict.fromkeys(loss_weights, 0.0)
    for start in range(0, len(samples), BATCH_SIZE):
        indices = range(start, min(start + BATCH_SIZE, len(samples)))
        images, targets, _ = samples.collate([samples[0, index, index] for index in indices])
        targets = {name: torch.as_tensor(value).to(device) for name, value in targets.items()}
        totals = loss.as_totals(loss.local_counts(targets).clamp(min=1))
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            outputs = model(network_input(images, device, train_config), targets["cell"])
        for name, value in loss.compute(outputs, targets, train_config, totals).items():
            sums[name] += float(value) * len(indices) / len(samples)
    total = sum(weight * sums[name] for name, weight in loss_weights.items())
    return {f"{PREFIX}loss": total} | {f"{PREFIX}{name}": value for name, value in sums.items()}
