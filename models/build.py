"""build_model: a backbone's name and a few numbers → the network."""

import torch
from carpose import UserError
from torch import nn

from .encoders import EFFICIENTNET, dla34, efficientnet
from .hourglass import HourglassNet
from .layers import batch_to_group_norm, make_heads
from .necks import NECKS
from .pretrained import load_pretrained

BACKBONES = [*(f"efficientnet_{size}" for size in EFFICIENTNET), "dla34", "hourglass"]


class EncoderNet(nn.Module):
    """Encoder, neck, heads."""

    def __init__(self, encoder: nn.Module, neck: type, neck_channels: int, heads: dict[str, int]):
        super().__init__()
        self.encoder = encoder
        self.neck = neck(encoder.feature_info.channels(), neck_channels)
        self.heads = make_heads(neck_channels, heads)

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        features = self.neck(self.encoder(x))
        return [{name: head(features) for name, head in self.heads.items()}]


class WithCoordinates(nn.Module):
    """Append two channels with each pixel's place, −1 … 1 across the picture (Liu et al. 2018, CoordConv)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
        columns = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        grid = grid.expand(len(x), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        return self.network(torch.cat([x, grid], dim=1))


def build_model(
    backbone: str,
    *,
    heads: dict[str, int],
    width: float = 1.0,
    neck: str | None = None,
    neck_channels: int = 64,
    stacks: int = 2,
    norm: str = "batch",
    in_channels: int = 3,
    coordinates: bool = False,
    pretrained: str = "none",
) -> nn.Module:
    """The network of this name.

    heads: output channels by name; width: factor on all channels of the backbone; neck: fpn or ida (None:
    ida for dla34, else fpn; the hourglass has none); stacks: hourglass only; norm: batch or group;
    in_channels: 3, or 4 with the mask; pretrained: none, hub or the path of a file of weights.
    Raises UserError that says what would be right.
    """
    if backbone not in BACKBONES:
        raise UserError(f"backbone {backbone!r} is unknown; use one of {', '.join(BACKBONES)}")
    if neck is not None and neck not in NECKS:
        raise UserError(f"neck {neck!r} is unknown; use one of {', '.join(NECKS)}")
    channels = in_channels + (2 if coordinates else 0)
    if backbone == "hourglass":
        if pretrained != "none":
            raise UserError("there are no pretrained weights for the hourglass; set pretrained: none")
        network: nn.Module = HourglassNet(channels, heads, stacks, width)
    else:
        is_dla = backbone == "dla34"
        encoder = dla34(width, channels) if is_dla else efficientnet(backbone, width, channels)
        if pretrained != "none":
            load_pretrained(encoder, backbone, width, pretrained)
        network = EncoderNet(encoder, NECKS[neck or ("ida" if is_dla else "fpn")], neck_channels, heads)
    if norm == "group":
        batch_to_group_norm(network)
    return WithCoordinates(network) if coordinates else network
