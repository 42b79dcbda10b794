"""Backbones from timm, at any width, that give feature maps of strides 4, 8, 16 and 32."""

from timm import create_model
from timm.models.efficientnet import _gen_efficientnet, _gen_efficientnet_lite
from torch import nn

from .layers import scaled

# Compound scaling of the published networks: channels, depth (Tan & Le 2019).
EFFICIENTNET = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4),
    "b4": (1.4, 1.8), "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1),
    "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8),
}  # fmt: skip


def efficientnet(backbone: str, width: float, in_channels: int) -> nn.Module:
    """`efficientnet_b0` … `_b7`, `efficientnet_lite0` … `_lite4`; timm's builder, so that any width works."""
    size = backbone.removeprefix("efficientnet_")
    channels, depth = EFFICIENTNET[size]
    generate = _gen_efficientnet_lite if size.startswith("lite") else _gen_efficientnet
    return generate(
        f"tf_{backbone}" if size.startswith("lite") else backbone,
        channel_multiplier=channels * width,
        depth_multiplier=depth,
        features_only=True,
        out_indices=(1, 2, 3, 4),
        in_chans=in_channels,
    )


def dla34(width: float, in_channels: int) -> nn.Module:
    """Deep layer aggregation with basic blocks (Yu et al. 2018)."""
    channels = [scaled(c, width) for c in (16, 32, 64, 128, 256, 512)]
    return create_model(
        "dla34", features_only=True, out_indices=(2, 3, 4, 5), channels=channels, in_chans=in_channels
    )
