"""The networks: photo → output maps of stride 4, one per head. One door: build_model().

Every network takes (B, C, H, W) and returns a list with one dict per stack (in evaluation: the last stack
alone): head name → (B, channels, H/4, W/4) float32. H and W are multiples of 32.
"""

from . import torchvision_shim  # noqa: F401, I001  must come before anything that imports timm

from .build import BACKBONES, build_model

__all__ = ["BACKBONES", "build_model"]
