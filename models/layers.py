"""Small pieces that all networks share."""

import math

import torch
import torch.nn.functional as F
from torch import nn

DENSE = "heatmap"  # the head that learns at every cell
# Probability at which the heat map starts everywhere (Lin et al. 2017, RetinaNet), else the many negatives
# drown the first steps.
PEAK = 0.01


def scaled(channels: int, width: float) -> int:
    """channels · width, as a multiple of 8 and at least 8."""
    return max(8, round(channels * width / 8) * 8)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and (if `act`) ReLU; keeps the size but for the stride."""
    parts = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU(inplace=True)] if act else []))


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, act=False))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Head(nn.Module):
    """3×3 convolution, ReLU, 1×1 convolution; the last in float32, where bf16 would cost pixels."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.output = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.hidden(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(x.to(torch.promote_types(x.dtype, torch.float32)))

    def at(self, around: torch.Tensor) -> torch.Tensor:
        """The same for single cells: their neighbourhoods (N, 9·inputs) → (N, outputs)."""
        inner, output = self.hidden[0], self.output
        weight = inner.weight.permute(0, 2, 3, 1).flatten(1)
        x = torch.relu(F.linear(around, weight, inner.bias))
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return F.linear(x, output.weight.flatten(1), output.bias)


class Heads(nn.ModuleDict):
    """One Head per name over the same features; `hidden` channels within."""

    def __init__(self, inputs: int, hidden: int, heads: dict[str, int]):
        super().__init__({name: Head(inputs, hidden, channels) for name, channels in heads.items()})
        for name, head in self.items():
            nn.init.normal_(head.output.weight, std=1e-3)
            nn.init.constant_(head.output.bias, math.log(PEAK / (1 - PEAK)) if name == DENSE else 0.0)

    def forward(self, features: torch.Tensor, cells: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Features (B, C, H, W) → a map (B, channels, H, W) per head.

        cells (N,), counted row by row through the batch: all but the heat map are computed there alone, each
        (N, channels). A training learns a pose at some hundred of ten thousand cells; the others' outputs
        cost half of a small network's step and have no gradient.
        """
        if cells is None:
            return {name: head(features) for name, head in self.items()}
        return {DENSE: self[DENSE](features), **self.at(features, cells)}

    def at(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """All but the heat map, at these cells alone."""
        around = neighbourhoods(features, cells)
        return {name: head.at(around) for name, head in self.items() if name != DENSE}


def neighbourhoods(features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) and cells (N,) counted through the batch → (N, 9·C): what a 3×3 convolution sees there,
    row by row, the channels of a place together, zero beyond the edge."""
    _, channels, height, width = features.shape
    places, inside = around(cells, height, width)
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    picked = flat.index_select(0, places.reshape(-1)) * inside.reshape(-1, 1)
    return picked.reshape(len(cells), 9 * channels)


def around(cells: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells (N,) counted through a batch of maps → (N, 9) the nine about each, row by row, itself in the
    middle, and whether they are on its map; those beyond the edge are the cell itself."""
    step = torch.arange(-1, 2, device=cells.device)
    rows = (cells // width % height)[:, None] + step
    columns = (cells % width)[:, None] + step
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    places = cells[:, None, None] + step[:, None] * width + step
    return torch.where(inside, places, cells[:, None, None]).flatten(1), inside.flatten(1)


def upsample_to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour enlargement to the size of `like`.

    Where that size is odd (2n − 1 from n) this is enlarging twofold and cropping the last row or column:
    the cells stay aligned, and no map has to be padded for it.
    """
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def batch_to_group_norm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d (timm's, with its activation inside, too) by GroupNorm, in place.

    Groups of 16 channels where that divides them, else of the greatest divisor below. Scale and shift,
    which may be pretrained, are kept.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            size = max(size for size in range(1, 17) if child.num_features % size == 0)
            norm: nn.Module = nn.GroupNorm(child.num_features // size, child.num_features)
            norm.load_state_dict({"weight": child.weight, "bias": child.bias})
            act = getattr(child, "act", None)
            setattr(module, name, norm if act is None else nn.Sequential(norm, act))
        else:
            batch_to_group_norm(child)
    return module
