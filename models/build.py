"""build_model: a backbone's name and a few numbers → the network."""

import torch
from torch import nn

from carpose import UserError

from .dla34 import dla34
from .efficientnet import SIZES, efficientnet
from .hourglass import hourglass
from .layers import Heads, batch_to_group_norm, make_heads
from .necks import NECKS
from .pretrained import load_pretrained

BACKBONES = [*(f"efficientnet_{size}" for size in SIZES), "dla34", "hourglass"]


class EncoderNet(nn.Module):
    """Encoder, neck, heads."""

    def __init__(self, encoder: nn.Module, neck: type, neck_channels: int, heads: dict[str, int]):
        super().__init__()
        self.encoder = encoder
        self.neck = neck(encoder.feature_info.channels(), neck_channels)
        self.heads = make_heads(neck_channels, neck_channels, heads)

    @property
    def last_heads(self) -> Heads:
        return self.heads

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the heads read, as the only entry of a list."""
        height, width = x.shape[2:]
        ragged = height % 32 or width % 32
        if ragged:
            x = nn.functional.pad(x, (0, -width % 32, 0, -height % 32))
        features = self.neck(self.encoder(x))
        if ragged:
            features = features[:, :, : -(-height // 4), : -(-width // 4)]
        return [features]

    def forward(self, x: torch.Tensor, cells: torch.Tensor | None = None) -> list[dict[str, torch.Tensor]]:
        return [self.heads(features, cells) for features in self.features(x)]


class WithCoordinates(nn.Module):
    """Append two channels with each pixel's place, −1 … 1 across the picture (Liu et al. 2018, CoordConv)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @property
    def last_heads(self) -> Heads:
        return self.network.last_heads

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.network.features(self.placed(x))

    def forward(self, x: torch.Tensor, cells: torch.Tensor | None = None) -> list[dict[str, torch.Tensor]]:
        return self.network(self.placed(x), cells)

    @staticmethod
    def placed(x: torch.Tensor) -> torch.Tensor:
        """The pictures with the two channels."""
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
        columns = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        grid = grid.expand(len(x), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        return torch.cat([x, grid], dim=1)


def build_model(
    backbone: str,
    *,
    heads: dict[str, int],
    width: float = 1.0,
    neck: str | None = None,
    neck_channels: int = 64,
    stacks: int = 2,
    depth: int = 5,
    modules: int = 2,
    norm: str = "batch",
    in_channels: int = 3,
    coordinates: bool = False,
    pretrained: str = "none",
) -> nn.Module:
    """The network of this name.

    heads: output channels by name; width: factor on all channels of the backbone; neck: fpn, ida or unet
    (None: ida for dla34, else fpn; the hourglass has none and ignores it); neck_channels: of the neck's
    output and within the heads; stacks, depth (halvings below stride 4), modules (residual blocks per
    scale): hourglass only; norm: batch or group; in_channels: 3, or 4 with the mask; pretrained: none, hub
    or the path of a file of the backbone's weights (of this width).
    Raises UserError that says what would be right.
    """
    _check("backbone", backbone, backbone in BACKBONES, f"one of {', '.join(BACKBONES)}")
    _check("neck", neck, neck is None or neck in NECKS, f"one of {', '.join(NECKS)}, or None")
    _check("norm", norm, norm in ("batch", "group"), "batch or group")
    _check("in_channels", in_channels, in_channels in (3, 4), "3, or 4 with the mask")
    _check("width", width, width > 0, "above 0, such as 1 or 0.25")
    _check("heads", heads, heads and min(heads.values()) > 0, "a number of channels by name")
    numbers = {"neck_channels": neck_channels, "stacks": stacks, "depth": depth, "modules": modules}
    for name, value in numbers.items():
        _check(name, value, value >= 1, "1 or more")

    channels = in_channels + (2 if coordinates else 0)
    if backbone == "hourglass":
        network: nn.Module = hourglass(
            channels, heads, stacks=stacks, width=width, depth=depth, modules=modules, hidden=neck_channels
        )
        own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("heads.")}
    else:
        is_dla = backbone == "dla34"
        encoder = dla34(width, channels) if is_dla else efficientnet(backbone, width, channels)
        network = EncoderNet(encoder, NECKS[neck or ("ida" if is_dla else "fpn")], neck_channels, heads)
        own = encoder.state_dict()
    if pretrained != "none":
        load_pretrained(own, backbone, width, pretrained)
    if norm == "group":
        batch_to_group_norm(network)
    return WithCoordinates(network) if coordinates else network


def _check(name: str, value: object, fine: object, right: str) -> None:
    if not fine:
        raise UserError(f"{name}: {value!r} will not do; use {right}")
