"""The losses of all heads, each by itself, so that each can be logged and weighted."""

import torch

from carpose.config.train_config import TrainConfig
from models.layers import DENSE

from .head import Head, Tensors, make_heads

# What losses are divided by: cars, cells that learn a car, cells of the heat map on and off a peak.
TOTALS = ("cars", "cells", "positive", "negative")


def local_counts(targets: Tensors) -> torch.Tensor:
    """(4,): TOTALS of these targets alone, where they are; the trainer takes the mean of its processes."""
    heat = targets[DENSE]
    cars, cells, positive = targets["peak_weight"].sum(), targets["weight"].sum(), heat.sum()
    return torch.stack([cars, cells, positive, heat.numel() - positive])


def as_totals(counts: torch.Tensor) -> Tensors:
    """(4,) → by name."""
    return dict(zip(TOTALS, counts.unbind(), strict=True))


def compute(outputs: list[Tensors], targets: Tensors, train_config: TrainConfig, totals: Tensors) -> Tensors:
    """Unweighted losses (scalars) by name, averaged over the network's stacks.

    outputs: of each stack the logits of the heat map (B, 1, H, W), and what the other heads say at the
    targets' cells (M, channels); totals: of the whole batch, at least 1, divided by the number of
    processes that share it: the mean of their losses is the batch's.
    """
    totals = {name: value * len(outputs) for name, value in totals.items()}
    heads = make_heads(train_config)
    kinds: dict[object, list[Head]] = {}  # heads that compute their losses together
    for head in heads.values():
        kinds.setdefault(type(head).losses.__func__, []).append(head)
    losses: Tensors = {}
    for output in outputs:
        for kind in kinds.values():
            values = type(kind[0]).losses(kind, [output[head.name] for head in kind], targets, totals)
            for head, value in zip(kind, values, strict=True):
                losses[head.name] = losses[head.name] + value if head.name in losses else value
    return {name: losses[name] for name in heads}


def weights(train_config: TrainConfig) -> dict[str, float]:
    """The weight of each loss that `compute` returns, in its order."""
    return {name: train_config.loss_weight_of(name) for name in make_heads(train_config)}
