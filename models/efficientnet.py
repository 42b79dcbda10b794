"""EfficientNet b0–b7 and lite0–lite4 at any width: picture → feature maps of strides 4, 8, 16 and 32.

At width 1 each is exactly the network whose published weights timm has (see `published_name`).
"""

from functools import partial

import torch
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from torch import nn

from .layers import scaled

# Compound scaling: factors on channels and on depth (Tan & Le 2019; their reference code for lite).
SIZES = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4),
    "b4": (1.4, 1.8), "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1),
    "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8),
}  # fmt: skip

# Table 1 of Tan & Le 2019 in timm's notation: depthwise-separable or inverted-residual block,
# r repeats, k kernel, s stride, e expansion, c channels, se squeeze-and-excitation ratio.
STAGES = [
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
    "ir_r3_k5_s1_e6_c112_se0.25",
    "ir_r4_k5_s2_e6_c192_se0.25",
    "ir_r1_k3_s1_e6_c320_se0.25",
]

# Their weights were trained in TensorFlow, whose padding and batch norm differ: with timm's own the
# weights would load without a word and the maps would be wrong.
FROM_TENSORFLOW = {"b6", "b7", "lite0", "lite1", "lite2", "lite3", "lite4"}


class SiLU(nn.SiLU):
    """In place in a prediction, but not in a training, whose autograd copies the input first: a thirteenth
    of all that such a step moves through memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x, inplace=self.inplace and not torch.is_grad_enabled())


def published_name(backbone: str) -> str:
    """timm's name of the network that has published weights and the same tensors."""
    return f"tf_{backbone}" if backbone.removeprefix("efficientnet_") in FROM_TENSORFLOW else backbone


def efficientnet(backbone: str, width: float, in_channels: int) -> nn.Module:
    """`efficientnet_b0` … `_b7`, `efficientnet_lite0` … `_lite4`; width: factor on all channels."""
    size = backbone.removeprefix("efficientnet_")
    channels, depth = SIZES[size]
    tensorflow = size in FROM_TENSORFLOW
    # Lite: no squeeze-and-excitation, ReLU6, and compound scaling leaves stem, first and last stage alone.
    lite = size.startswith("lite")
    stages = [[stage.removesuffix("_se0.25") if lite else stage] for stage in STAGES]
    return EfficientNetFeatures(
        decode_arch_def(stages, depth, fix_first_last=lite),
        out_indices=(1, 2, 3, 4),
        in_chans=in_channels,
        stem_size=scaled(32, width) if lite else 32,
        fix_stem=lite,
        round_chs_fn=partial(round_channels, multiplier=channels * width),
        act_layer=nn.ReLU6 if lite else SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3) if tensorflow else nn.BatchNorm2d,
        pad_type="same" if tensorflow else "",
    )
