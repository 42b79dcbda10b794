"""Small networks of every backbone, by name in the registry."""

import torch
from torch import nn

from carpose.registry import resolve
from carpose.registry.backbones import NECKS, backbone_of
from models.build import build_model

HEADS = {"heatmap": 1, "offset": 2, "depth": 2, "rotation": 6}
FAMILIES = ["efficientnet_b0", "efficientnet_lite0", "dla34", "hourglass"]


def encoder_of(name: str, width: float, in_channels: int = 3) -> nn.Module:
    """A backbone without a neck."""
    entry = backbone_of(name)
    return resolve(entry.builder)(width, in_channels, **entry.options)


def network_of(name: str, *, neck: str | None = None, **options) -> nn.Module:
    entry = backbone_of(name)
    neck = entry.neck and (neck or entry.neck)
    options = {"heads": HEADS, **entry.options, **options}
    return build_model(resolve(entry.builder), resolve(NECKS[neck]) if neck else None, **options)


def tiny(name: str, **options) -> nn.Module:
    return network_of(name, **{"width": 0.125, "neck_channels": 8, **options})


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def flat(outputs: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([maps.flatten() for stack in outputs for maps in stack.values()])
