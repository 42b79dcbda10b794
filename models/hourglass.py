"""Stacked hourglass network (Newell et al. 2016) as CornerNet has it (Law & Deng 2018): Hourglass-104."""

import torch
from torch import nn

from .layers import Residual, conv, make_heads, scaled, upsample_to

CHANNELS = [256, 256, 384, 384, 384, 512]  # of Hourglass-104, from stride 4 to stride 128
MODULES = [2, 2, 2, 2, 2, 4]  # residual blocks per scale


def residuals(inputs: int, outputs: int, count: int, stride: int = 1) -> nn.Sequential:
    first = Residual(inputs, outputs, stride)
    return nn.Sequential(first, *(Residual(outputs, outputs) for _ in range(count - 1)))


class Hourglass(nn.Module):
    """One scale and everything below it: a path at full size beside one that shrinks and enlarges again."""

    def __init__(self, channels: list[int], modules: list[int]):
        super().__init__()
        here, below = channels[:2]
        count = modules[0]
        self.beside = residuals(here, here, count)
        self.down = residuals(here, below, count, stride=2)
        deeper = len(channels) > 2
        self.inner = Hourglass(channels[1:], modules[1:]) if deeper else residuals(below, below, modules[1])
        # CornerNet's way up keeps the channels until its last block.
        self.up = nn.Sequential(*(Residual(below, below) for _ in range(count - 1)), Residual(below, here))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = self.beside(x)
        return beside + upsample_to(self.up(self.inner(self.down(x))), beside)


class HourglassNet(nn.Module):
    """Input → stem (stride 4) → `stacks` hourglasses, each with heads of its own."""

    def __init__(self, in_channels: int, heads: dict[str, int], stacks: int, width: float, scales: int = 6):
        super().__init__()
        channels = [scaled(c, width) for c in CHANNELS[:scales]]
        here = channels[0]
        half = scaled(128, width)
        self.stem = nn.Sequential(conv(in_channels, half, 7, 2), Residual(half, here, 2))
        self.hourglasses = nn.ModuleList(Hourglass(channels, MODULES[:scales]) for _ in range(stacks))
        self.after = nn.ModuleList(conv(here, here) for _ in range(stacks))
        self.heads = nn.ModuleList(make_heads(here, heads) for _ in range(stacks))
        between = range(stacks - 1)
        self.carry = nn.ModuleList(conv(here, here, 1, act=False) for _ in between)
        self.feed = nn.ModuleList(conv(here, here, 1, act=False) for _ in between)
        self.between = nn.ModuleList(Residual(here, here) for _ in between)

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        x = self.stem(x)
        outputs = []
        for index, (hourglass, after, heads) in enumerate(
            zip(self.hourglasses, self.after, self.heads, strict=True)
        ):
            features = after(hourglass(x))
            last = index == len(self.hourglasses) - 1
            if self.training or last:
                outputs.append({name: head(features) for name, head in heads.items()})
            if not last:
                x = self.between[index](torch.relu(self.carry[index](x) + self.feed[index](features)))
        return outputs
