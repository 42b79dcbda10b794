"""Layers and functions that the networks share."""

import math

import torch
import torch.nn.functional as F
from torch import nn

HEATMAP = "heatmap"  # the only head that is trained at every cell
# The heat map's initial probability at every cell (RetinaNet, Lin et al. 2017): otherwise the many negatives
# dominate the first steps.
PRIOR_PROBABILITY = 0.01


def scaled(channels: int, width: float) -> int:
    """channels · width, as a multiple of 8 and at least 8."""
    return max(8, round(channels * width / 8) * 8)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and (if `act`) ReLU; same padding."""
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
    """3×3 convolution, ReLU, 1×1 convolution. The last is in float32: bf16 is too coarse for positions."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.output = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.hidden(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(x.to(torch.promote_types(x.dtype, torch.float32)))

    def at(self, around: torch.Tensor) -> torch.Tensor:
        """The same at single cells: their neighbourhoods (N, 9·inputs) → (N, outputs)."""
        inner, output = self.hidden[0], self.output
        weight = inner.weight.permute(0, 2, 3, 1).flatten(1)
        x = torch.relu(F.linear(around, weight, inner.bias))
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return F.linear(x, output.weight.flatten(1), output.bias)


class Heads(nn.ModuleDict):
    """One Head per name, all on the same features; heads: output channels by name."""

    def __init__(self, inputs: int, hidden: int, heads: dict[str, int]):
        super().__init__({name: Head(inputs, hidden, channels) for name, channels in heads.items()})
        for name, head in self.items():
            nn.init.normal_(head.output.weight, std=1e-3)
            nn.init.constant_(
                head.output.bias,
                math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY)) if name == HEATMAP else 0.0,
            )

    def forward(self, features: torch.Tensor, cells: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Features (B, C, H, W) → a map (B, channels, H, W) per head.

        cells (N,), indices that count row by row through the batch: all heads but the heat map are computed
        at these cells alone, (N, channels). In training a few hundred of ten thousand cells are positive
        (assigned to a car); computing the heads at all cells would take half of a small network's step.
        """
        if cells is None:
            return {name: head(features) for name, head in self.items()}
        return {HEATMAP: self[HEATMAP](features), **self.at(features, cells)}

    def at(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs (N, channels) of all heads but the heat map at cells (N,)."""
        around = neighbourhoods(features, cells)
        return {name: head.at(around) for name, head in self.items() if name != HEATMAP}


def neighbourhoods(features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W) and cell indices (N,) → (N, 9·C): the inputs of a 3×3 convolution at these cells,
    row by row, channels last, zero beyond the edge."""
    _, channels, height, width = features.shape
    indices, inside = around(cells, height, width)
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    picked = flat.index_select(0, indices.reshape(-1)) * inside.reshape(-1, 1)
    return picked.reshape(len(cells), 9 * channels)


def around(cells: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell indices (N,) of a batch of maps → indices (N, 9) of the 3×3 cells around each, row by row, and
    whether they are inside its map (N, 9). Outside the map the index is that of the cell itself."""
    step = torch.arange(-1, 2, device=cells.device)
    rows = (cells // width % height)[:, None] + step
    columns = (cells % width)[:, None] + step
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    indices = cells[:, None, None] + step[:, None] * width + step
    return torch.where(inside, indices, cells[:, None, None]).flatten(1), inside.flatten(1)


def upsample_to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour upsampling to the size of `like`.

    For an odd size (n → 2n − 1) this equals upsampling by two and cropping the last row or column, so cells
    stay aligned without padding.
    """
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def batch_to_group_norm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d by GroupNorm (Wu & He 2018), in place; activations inside timm's are kept.

    Groups have 16 channels, or the largest smaller number that divides the channels. Scale and shift, which
    may be pretrained, are kept.
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
