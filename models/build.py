"""build_model builds a network from a backbone's builder, a neck and a few options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .layers import Heads, batch_to_group_norm
from .pretrained import load_pretrained


class EncoderNet(nn.Module):
    """Encoder, neck, heads."""

    def __init__(self, encoder: nn.Module, neck: type, neck_channels: int, heads: dict[str, int]):
        super().__init__()
        self.encoder = encoder
        self.neck = neck(encoder.feature_info.channels(), neck_channels)
        self.heads = Heads(neck_channels, neck_channels, heads)

    @property
    def last_heads(self) -> Heads:
        return self.heads

    def backbone_state(self) -> dict[str, torch.Tensor]:
        """The tensors that pretrained weights can be copied into."""
        return self.encoder.state_dict()

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) → the heads' input (B, neck_channels, ⌈H/4⌉, ⌈W/4⌉), in a list of one."""
        height, width = x.shape[2:]
        needs_padding = height % 32 or width % 32
        if needs_padding:
            x = nn.functional.pad(x, (0, -width % 32, 0, -height % 32))
        features = self.neck(self.encoder(x))
        if needs_padding:
            features = features[:, :, : -(-height // 4), : -(-width // 4)]
        return [features]

    def forward(self, x: torch.Tensor, cells: torch.Tensor | None = None) -> list[dict[str, torch.Tensor]]:
        return [self.heads(features, cells) for features in self.features(x)]


def build_model(
    builder: Callable[..., nn.Module],
    neck: type | None,
    *,
    heads: dict[str, int],
    width: float = 1.0,
    neck_channels: int = 64,
    norm: str = "batch",
    in_channels: int = 3,
    pretrained: str = "none",
    hub_name: str = "",
    **options: Any,
) -> nn.Module:
    """Build a network.

    builder: builder(width, in_channels, **options) → an encoder with feature maps of strides 4, 8, 16 and 32;
    or, if neck is None, → the complete network (called also with `heads`, and neck_channels as `hidden`);
    neck: a class of models.necks; heads: output channels by name; width: factor on all channels of the
    backbone; neck_channels: of the neck's output and of the heads' hidden layer; norm: batch or group;
    in_channels: 3, or 4 with the mask; pretrained: none, hub (the weights of timm's network `hub_name`) or
    the path of a weights file. Raises ValueError for invalid options, and if weights cannot be loaded.
    """
    if neck is None:
        network = builder(width, in_channels, heads=heads, hidden=neck_channels, **options)
    else:
        network = EncoderNet(builder(width, in_channels, **options), neck, neck_channels, heads)
    if pretrained != "none":
        load_pretrained(network.backbone_state(), pretrained, hub_name)
    if norm == "group":
        batch_to_group_norm(network)
    return network
