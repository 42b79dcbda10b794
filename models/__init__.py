"""The networks: photo → output maps of stride 4, one per head. One door: build_model().

Every network takes (B, C, H, W) and returns a list with one dict per stack (in evaluation: the last stack
alone): head name → (B, channels, H/4, W/4) float32, rounded up. With `cells` (N,), counted through the maps
of the batch, all heads but the heat map give (N, channels), what they say there. Any size goes in; where a
backbone needs multiples of 32, zeros are added on the right and below and cut off the output again.
"""

from . import torchvision_shim  # noqa: F401, I001  must come before anything that imports timm

from .build import BACKBONES, build_model
from .layers import count_parameters

__all__ = ["BACKBONES", "build_model", "count_parameters"]
