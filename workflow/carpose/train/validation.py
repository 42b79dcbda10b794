"""Losses and mAP on the photos of the validation fold, from one forward pass. Where these losses rise while
those of the training fall, it overfits.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from carpose.config.sections import Predict, Running
from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.data.loader import load_samples
from carpose.data.samples import Samples
from carpose.heads import loss
from carpose.metric import evaluate
from carpose.predict.cars import to_table
from carpose.predict.networks import forward, prepare_for_inference
from carpose.registry.heads import VALID
from models.layers import HEATMAP

BATCH_SIZE = 8  # photos; only the main process has to hold them


def validate(
    network: torch.nn.Module,
    train_config: TrainConfig,
    cache: Path,
    image_ids: Sequence[str],
    truth: pd.DataFrame,
    device: torch.device,
    running: Running,
) -> dict[str, float]:
    """The unweighted losses of the network's last stack by VALID and name, the weighted sum first (as
    valid_loss), and mAP: on these photos as they are, without augmentation or test-time views.

    cache: folder; truth: their cars with sample weight and depth_sigma, as in carpose.train.loop.Tables.
    """
    plain = replace(train_config, flip=0.0, rotate_deg=[0.0] * 3, zoom=0.0, shift=0.0, colour=0.0)
    samples = Samples(cache, list(image_ids), truth, replace(plain, batch_size=BATCH_SIZE))
    model = prepare_for_inference(network, train_config, device, cuda_graphs=running.cuda_graphs)
    loss_weights = loss.loss_weights(train_config)
    sums, tables = dict.fromkeys(loss_weights, 0.0), []
    starts = range(0, len(samples), BATCH_SIZE)
    keys = ([(0, i, i) for i in range(start, min(start + BATCH_SIZE, len(samples)))] for start in starts)
    for images, arrays, names in load_samples(samples, keys, device, workers=running.workers):
        targets = {name: torch.as_tensor(value).to(device) for name, value in arrays.items()}
        prediction = forward(model, images, train_config, device)
        outputs = {HEATMAP: prediction.heatmap.logit(eps=1e-7), **prediction.outputs_at(targets["cell"])}
        totals = loss.as_totals(loss.local_counts(targets).clamp(min=1))
        for name, value in loss.compute([outputs], targets, train_config, totals).items():
            sums[name] += float(value) * len(names) / len(samples)
        limits = Predict.threshold, Predict.max_cars
        tables.append(to_table(prediction, samples.view, train_config, names, *limits, np.eye(3)))
    total = sum(weight * sums[name] for name, weight in loss_weights.items())
    losses = {f"{VALID}loss": total} | {f"{VALID}{name}": value for name, value in sums.items()}
    return losses | {"mAP": evaluate(truth, cars.concat(tables), image_ids=list(image_ids))["mAP"]}
