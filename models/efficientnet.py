"""EfficientNet b0–b7 and lite0–lite4 at any width: image → feature maps of strides 4, 8, 16 and 32.

At width 1 each has exactly the tensors of timm's network, so that the published weights fit.
"""

from functools import partial

import torch
from torch import nn

from . import torchvision_shim  # noqa: F401  before timm
from .layers import scaled

from timm.models.efficientnet import EfficientNetFeatures, decode_arch_def, round_channels  # isort: skip

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


class SiLU(nn.SiLU):
    """SiLU that is in place only at inference. In training, autograd would copy the input first, which is a
    thirteenth of the memory traffic of a step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x, inplace=self.inplace and not torch.is_grad_enabled())


def efficientnet(
    width: float, in_channels: int, *, channels: float, depth: float, lite: bool, tensorflow: bool
) -> nn.Module:
    """An EfficientNet encoder (Tan & Le 2019).

    width: factor on all channels; channels, depth: factors of compound scaling, which define b0 … b7; lite:
    no squeeze-and-excitation, ReLU6, and a stem, first and last stage without compound scaling; tensorflow:
    the padding and batch-norm epsilon of TensorFlow's weights.
    """
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
