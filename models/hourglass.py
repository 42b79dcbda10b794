"""Stacked hourglass network (Newell et al. 2016) as in CornerNet (Law & Deng 2018): Hourglass-104.

Image → one dict of output maps of stride 4 per stack; any number of stacks, residual blocks and channels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .layers import Heads, Residual, conv, scaled, upsample_to

CHANNELS = (256, 256, 384, 384, 384, 512)  # of Hourglass-104, from stride 4 to stride 128
STEM = 128  # of Hourglass-104, at stride 2


def residuals(inputs: int, outputs: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` residual blocks, the first with this stride."""
    first = Residual(inputs, outputs, stride)
    return nn.Sequential(first, *(Residual(outputs, outputs) for _ in range(count - 1)))


class Hourglass(nn.Module):
    """One scale and, recursively, all coarser ones: a skip path plus a path of lower resolution.

    channels, modules: channels and residual blocks per scale, finest first. The output has the input's size,
    which can be any.
    """

    def __init__(self, channels: Sequence[int], modules: Sequence[int]):
        super().__init__()
        outer, inner = channels[:2]
        count = modules[0]
        self.beside = residuals(outer, outer, count)
        self.down = residuals(outer, inner, count, stride=2)
        deeper = len(channels) > 2
        self.inner = Hourglass(channels[1:], modules[1:]) if deeper else residuals(inner, inner, modules[1])
        # As in CornerNet, only the last block changes the number of channels.
        self.up = nn.Sequential(*(Residual(inner, inner) for _ in range(count - 1)), Residual(inner, outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = self.beside(x)
        return beside + upsample_to(self.up(self.inner(self.down(x))), beside)


class HourglassNet(nn.Module):
    """Stem (stride 4), then `stacks` hourglasses, each with its own heads. The defaults are Hourglass-104:
    187.7 M parameters without heads.
    """

    def __init__(
        self,
        width: float,
        in_channels: int,
        *,
        heads: dict[str, int],
        hidden: int = 256,
        stacks: int = 2,
        modules: int = 2,
    ):
        """width: factor on all channels; heads: output channels by name; hidden: channels of the heads'
        hidden layer; modules: residual blocks per scale (twice as many at the coarsest, as in CornerNet)."""
        super().__init__()
        stem, channels = scaled(STEM, width), [scaled(c, width) for c in CHANNELS]
        outer, blocks = channels[0], [modules] * (len(channels) - 1) + [2 * modules]
        self.stem = nn.Sequential(conv(in_channels, stem, 7, 2), Residual(stem, outer, 2))
        self.hourglasses = nn.ModuleList(Hourglass(channels, blocks) for _ in range(stacks))
        self.after = nn.ModuleList(conv(outer, outer) for _ in range(stacks))
        self.heads = nn.ModuleList(Heads(outer, hidden, heads) for _ in range(stacks))
        between = range(stacks - 1)
        self.carry = nn.ModuleList(conv(outer, outer, 1, act=False) for _ in between)
        self.feed = nn.ModuleList(conv(outer, outer, 1, act=False) for _ in between)
        self.between = nn.ModuleList(Residual(outer, outer) for _ in between)

    @property
    def last_heads(self) -> Heads:
        return self.heads[-1]

    def backbone_state(self) -> dict[str, torch.Tensor]:
        """The tensors that pretrained weights can be copied into: all but the heads."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("heads.")}

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) → the features that the heads of each stack read, (B, channels, ⌈H/4⌉, ⌈W/4⌉) each."""
        x, outputs = self.stem(x), []
        for index, (hourglass, after) in enumerate(zip(self.hourglasses, self.after, strict=True)):
            outputs.append(after(hourglass(x)))
            if index < len(self.hourglasses) - 1:
                x = self.between[index](torch.relu(self.carry[index](x) + self.feed[index](outputs[-1])))
        return outputs

    def forward(self, x: torch.Tensor, cells: torch.Tensor | None = None) -> list[dict[str, torch.Tensor]]:
        stacks = list(zip(self.heads, self.features(x), strict=True))
        return [heads(features, cells) for heads, features in (stacks if self.training else stacks[-1:])]
