"""Losses, each by itself, so that each can be logged and balanced.

In: the network's output maps and the collated targets of carpose.codec. Out: a dict of scalars.
"""

import math

import torch
import torch.nn.functional as F

from . import distributed
from .codec import gather
from .recipe import Recipe

Tensors = dict[str, torch.Tensor]
BALANCE_RATE = 0.01  # of a loss weight's logarithm, per step
USUAL_SCALE = -2.5  # logarithm of a depth's Laplace scale: where depth_beta leaves an error its weight
TURN_TERMS = {
    "angles": 6,
    "quaternion": 4,
}  # numbers of a rotation; a constant pitch leaves the yaw its weight


def counts(targets: Tensors, device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """What losses are divided by, over the whole batch of all processes: cars, cells that learn a pose, cells
    of the heat map on and off a peak; on the device (default: the targets')."""
    heat = targets["heatmap"]
    cars, cells, positive = targets["peak_weight"].sum(), targets["weight"].sum(), heat.sum()
    own = torch.stack([cars, cells, positive, heat.numel() - positive])
    totals = distributed.count(own.to(device or own.device, non_blocking=True))
    return dict(zip(("cars", "cells", "positive", "negative"), totals.unbind(), strict=True))


def heatmap_focal(logits: torch.Tensor, targets: Tensors, total: Tensors | None = None) -> torch.Tensor:
    """CornerNet's focal loss (Law & Deng 2018, eq. 1; α = 2, β = 4) over the number of cars.

    logits (B, 1, H, W). Cells of the ignore map count for nothing; a car counts by its weight.
    """
    total = total or counts(targets)
    logits = logits[:, 0].float()
    probability = logits.sigmoid()
    away = (1 - targets["heatmap"]).square().square() * ~targets["ignore"]
    negative = (probability.square() * F.softplus(logits) * away).sum()
    at = logits.reshape(-1).index_select(0, targets["peak"])
    positive = ((1 - at.sigmoid()).square() * F.softplus(-at) * targets["peak_weight"]).sum()
    return (positive + negative) / total["cars"]


def heatmap_bce(logits: torch.Tensor, targets: Tensors, total: Tensors | None = None) -> torch.Tensor:
    """Binary cross-entropy with the soft heat map, positives and negatives balanced, over the cars."""
    total = total or counts(targets)
    logits = logits[:, 0].float()
    heat = targets["heatmap"]
    loss = F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * ~targets["ignore"]
    positive = (loss * heat).sum() / total["positive"]
    negative = (loss * (1 - heat)).sum() / total["negative"]
    return positive + negative * 10


def compute(
    outputs: list[Tensors], targets: Tensors, recipe: Recipe, total: Tensors | None = None
) -> dict[str, torch.Tensor]:
    """Unweighted losses by name, averaged over the network's stacks.

    total: `counts` of the whole batch, where this is a part of it; the losses of the parts sum to its own.
    """
    total = total or counts(targets)
    heatmap_loss = {"focal": heatmap_focal, "bce": heatmap_bce}[recipe.heatmap_loss]
    weight = targets["weight"][:, None]
    depths = ["depth", "height"] if recipe.height_cue else ["depth"]
    depth_target = torch.stack([targets[name] for name in depths])
    total = {name: value * len(outputs) for name, value in total.items()}
    losses: dict[str, torch.Tensor] = {}

    def add(name: str, value: torch.Tensor) -> None:
        losses[name] = losses[name] + value if name in losses else value

    for output in outputs:
        add("heatmap", heatmap_loss(output["heatmap"], targets, total))
        found = {
            name: gather(value.float(), targets["cell"])
            for name, value in output.items()
            if name != "heatmap"
        }
        add("offset", ((found["offset"] - targets["offset"]).abs() * weight).sum() / (2 * total["cells"]))
        # Both depths at once: so few numbers cost less than the calls.
        depth = torch.stack([found[name] for name in depths])
        error = (depth[..., :1] - depth_target).abs()
        if recipe.depth_uncertainty:
            # Laplace likelihood: |error|/b + log b, with s = log b held in a sane range; the variance of
            # a pseudo label's own error is not the network's to explain.
            s = depth[..., 1:].clamp(-6, 4)
            if "depth_noise" in targets:
                noise = torch.stack([targets[f"{name}_noise"] for name in depths])
                s = torch.logaddexp(2 * s, 2 * noise.log()) / 2
            error = error * torch.exp(-s) + s
            if recipe.depth_beta:  # else what is unsure hardly learns
                error = error * torch.exp(recipe.depth_beta * (s.detach() - USUAL_SCALE))
        for name, value in zip(depths, ((error * weight).sum((1, 2)) / total["cells"]).unbind(), strict=True):
            add(name, value)
        turn = (found["rotation"] - targets["rotation"]).abs()
        if recipe.rotation == "quaternion":  # q and −q are one rotation
            other = (found["rotation"] + targets["rotation"]).abs()
            turn = torch.where(other.sum(1, keepdim=True) < turn.sum(1, keepdim=True), other, turn)
        add("rotation", (turn * weight).sum() / (TURN_TERMS[recipe.rotation] * total["cells"]))
    return losses


WEIGHED_AS = {"height": "depth"}  # a loss without a weight of its own → the one whose weight it takes


def weights(recipe: Recipe) -> dict[str, float]:
    """The weight of each loss that `compute` returns, in its order, as the recipe gives it."""
    names = ["heatmap", "offset", "depth", *(["height"] if recipe.height_cue else []), "rotation"]
    return {name: getattr(recipe, f"{WEIGHED_AS.get(name, name)}_weight") for name in names}


def balanced(weights: dict[str, float], losses: dict[str, float], recipe: Recipe) -> dict[str, float]:
    """One step towards weights that suit the losses (Kendall et al. 2018, eq. 10, in its form for Laplace).

    Σ exp(−s)·loss + s is what they minimise with the network; its slope in s, 1 − exp(−s)·loss, is known
    without a backward pass, exp(−s) being the weight. A loss that is a likelihood already, a depth with its
    uncertainty, keeps its weight, and so does one that is switched off.
    """
    fixed = {"depth", "height"} if recipe.depth_uncertainty else set()
    result = dict(weights)
    for name, weight in weights.items():
        if name not in fixed and weight > 0:
            slope = max(1 - weight * losses[name], -1.0)  # the first heat maps are far off
            result[name] = weight * math.exp(BALANCE_RATE * slope)
    return result
