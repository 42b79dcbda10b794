"""Losses, each by itself, so that each can be logged and balanced.

In: the network's output maps and the collated targets of carpose.codec. Out: a dict of scalars.
"""

import torch
import torch.nn.functional as F

from . import distributed
from .codec import gather
from .recipe import Recipe


def heatmap_focal(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """CornerNet's focal loss (Law & Deng 2018, eq. 1; α = 2, β = 4) over the number of cars.

    logits (B, 1, H, W). Cells of the ignore map count for nothing; a car counts by its weight.
    """
    logits = logits[:, 0].float()
    probability = logits.sigmoid()
    away = (1 - targets["heatmap"]).pow(4) * ~targets["ignore"]
    negative = (probability.pow(2) * F.softplus(logits) * away).sum()
    at = logits.reshape(-1)[targets["peak"]]
    positive = ((1 - at.sigmoid()).pow(2) * F.softplus(-at) * targets["peak_weight"]).sum()
    return (positive + negative) / distributed.count(targets["peak_weight"].sum())


def heatmap_bce(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Binary cross-entropy with the soft heat map, positives and negatives balanced, over the cars."""
    logits = logits[:, 0].float()
    heat = targets["heatmap"]
    loss = F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * ~targets["ignore"]
    positive = (loss * heat).sum() / distributed.count(heat.sum())
    negative = (loss * (1 - heat)).sum() / distributed.count((1 - heat).sum())
    return positive + negative * 10


def compute(
    outputs: list[dict[str, torch.Tensor]], targets: dict[str, torch.Tensor], recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Unweighted losses by name, averaged over the network's stacks."""
    heatmap_loss = {"focal": heatmap_focal, "bce": heatmap_bce}[recipe.heatmap_loss]
    weight = targets["weight"][:, None]
    total = distributed.count(weight.sum())
    losses: dict[str, torch.Tensor] = {}

    def add(name: str, value: torch.Tensor) -> None:
        losses[name] = losses.get(name, 0) + value / len(outputs)

    for output in outputs:
        add("heatmap", heatmap_loss(output["heatmap"], targets))
        found = {
            name: gather(output[name].float(), targets["cell"]) for name in ("offset", "depth", "rotation")
        }
        add("offset", ((found["offset"] - targets["offset"]).abs() * weight).sum() / (2 * total))
        error = (found["depth"][:, :1] - targets["depth"]).abs()
        if recipe.depth_uncertainty:
            # Laplace likelihood: |error|/b + log b, with s = log b held in a sane range; the variance of
            # a pseudo label's own error is not the network's to explain.
            s = found["depth"][:, 1:].clamp(-6, 4)
            s = torch.logaddexp(2 * s, 2 * targets["depth_noise"].log()) / 2
            error = error * torch.exp(-s) + s
        add("depth", (error * weight).sum() / total)
        add("rotation", ((found["rotation"] - targets["rotation"]).abs() * weight).sum() / (6 * total))
    return losses


def weighted_sum(losses: dict[str, torch.Tensor], recipe: Recipe) -> torch.Tensor:
    return sum(value * getattr(recipe, f"{name}_weight") for name, value in losses.items())
