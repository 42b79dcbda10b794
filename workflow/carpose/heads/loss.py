"""The losses of all heads, each by itself, so that each can be logged and weighted.

In: a network's output maps and the collated targets. Out: a dict of scalars.
"""

import torch

from carpose.config.recipe import Recipe
from models.layers import DENSE

from .head import Tensors, gather, make_heads

# What losses are divided by: cars, cells that learn a car, cells of the heat map on and off a peak.
TOTALS = ("cars", "cells", "positive", "negative")


def own_counts(targets: Tensors) -> torch.Tensor:
    """(4,): TOTALS of these targets alone, where they are; the trainer sums them over its processes."""
    heat = targets[DENSE]
    cars, cells, positive = targets["peak_weight"].sum(), targets["weight"].sum(), heat.sum()
    return torch.stack([cars, cells, positive, heat.numel() - positive])


def as_totals(counts: torch.Tensor) -> Tensors:
    """(4,) → by name."""
    return dict(zip(TOTALS, counts.unbind(), strict=True))


def compute(
    outputs: list[Tensors], targets: Tensors, recipe: Recipe, totals: Tensors | None = None
) -> Tensors:
    """Unweighted losses by name, averaged over the network's stacks.

    outputs: of each stack, maps (B, C, H, W) or what they say at the targets' cells (M, C); totals: of the
    whole batch, each at least 1, where this is a part of it (default: of these targets); the losses of the
    parts sum to its own.
    """
    totals = totals or as_totals(own_counts(targets).clamp(min=1))
    totals = {name: value * len(outputs) for name, value in totals.items()}
    heads = make_heads(recipe)
    kinds: dict = {}  # heads that compute their losses together
    for name, head in heads.items():
        kinds.setdefault(type(head).losses.__func__, []).append(name)
    losses: Tensors = {}
    for maps in outputs:
        for names in kinds.values():
            members = [heads[name] for name in names]
            values = [
                maps[name] if name == DENSE else gather(maps[name].float(), targets["cell"]) for name in names
            ]
            for name, value in zip(
                names, type(members[0]).losses(members, values, targets, totals), strict=True
            ):
                losses[name] = losses[name] + value if name in losses else value
    return {name: losses[name] for name in heads}


def weights(recipe: Recipe) -> dict[str, float]:
    """The weight of each loss that `compute` returns, in its order."""
    return {name: recipe.weight_of(name) for name in make_heads(recipe)}
