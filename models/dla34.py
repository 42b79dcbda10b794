"""DLA-34 at any width: image → feature maps of strides 4, 8, 16 and 32."""

from torch import nn

from . import torchvision_shim  # noqa: F401  before timm
from .layers import scaled

from timm import create_model  # isort: skip

CHANNELS = (16, 32, 64, 128, 256, 512)  # of the published network, strides 1 to 32


def dla34(width: float, in_channels: int) -> nn.Module:
    """Deep layer aggregation with basic blocks (Yu et al. 2018); width: factor on all channels.

    H and W must be multiples of 32, because its pooling rounds sizes down and its convolutions round up.
    """
    channels = [scaled(c, width) for c in CHANNELS]
    return create_model(
        "dla34", features_only=True, out_indices=(2, 3, 4, 5), channels=channels, in_chans=in_channels
    )
