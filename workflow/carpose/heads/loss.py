"""The losses of all heads by name, so that each can be logged and weighted."""

import torch

from carpose.config.train_config import TrainConfig
from models.layers import HEATMAP

from .head import Head, Tensors, make_heads

# Divisors of the losses: sums of the cars' weights, of the cells' weights, of the heat map y, and of 1 − y.
TOTALS = ("cars", "cells", "positive", "negative")


def local_counts(targets: Tensors) -> torch.Tensor:
    """TOTALS of these targets, (4,) on their device. See train.distributed for several processes."""
    heat = targets[HEATMAP]
    cars, cells, positive = targets["peak_weight"].sum(), targets["weight"].sum(), heat.sum()
    return torch.stack([cars, cells, positive, heat.numel() - positive])


def as_totals(counts: torch.Tensor) -> Tensors:
    """(4,) in the order of TOTALS → scalars by name."""
    return dict(zip(TOTALS, counts.unbind(), strict=True))


def compute(outputs: list[Tensors], targets: Tensors, train_config: TrainConfig, totals: Tensors) -> Tensors:
    """Unweighted losses (scalars) by name, averaged over the network's stacks.

    outputs: for each stack the logits of the heat map (B, 1, H, W) and the other heads' outputs at the
    targets' cells (M, channels); totals: the divisors by name, mean per process: the sum over the whole
    batch, at least 1, divided by the number of processes. Then the mean of the processes' losses is the
    batch's loss.
    """
    totals = {name: value * len(outputs) for name, value in totals.items()}
    heads = make_heads(train_config)
    # Heads with the same `losses` function are computed in one call.
    groups: dict[object, list[Head]] = {}
    for head in heads.values():
        method = type(head).losses.__func__  # type: ignore[attr-defined]  # a class method has it
        groups.setdefault(method, []).append(head)
    losses: Tensors = {}
    for output in outputs:
        for group in groups.values():
            values = type(group[0]).losses(group, [output[head.name] for head in group], targets, totals)
            for head, value in zip(group, values, strict=True):
                losses[head.name] = losses[head.name] + value if head.name in losses else value
    return {name: losses[name] for name in heads}


def loss_weights(train_config: TrainConfig) -> dict[str, float]:
    """The weight of each loss that `compute` returns, in the same order."""
    return {name: train_config.loss_weight_of(name) for name in make_heads(train_config)}
