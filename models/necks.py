"""Necks: feature maps of strides 4, 8, 16, 32 → one map of stride 4."""

import torch
from torch import nn

from .layers import conv, upsample_to


class Fpn(nn.Module):
    """Top-down: the coarser map is enlarged and added to the finer one (Lin et al. 2017)."""

    def __init__(self, channels: list[int], outputs: int):
        super().__init__()
        self.lateral = nn.ModuleList(conv(c, outputs, 1) for c in channels)
        self.smooth = nn.ModuleList(conv(outputs, outputs) for _ in channels[:-1])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = self.lateral[-1](features[-1])
        for lateral, smooth, feature in zip(
            reversed(self.lateral[:-1]), reversed(self.smooth), reversed(features[:-1]), strict=True
        ):
            x = smooth(lateral(feature) + upsample_to(x, feature))
        return x


class Ida(nn.Module):
    """Iterative deep aggregation (Yu et al. 2018, DLA-up): every scale is merged into the finer one again
    and again, so that the coarse context passes through several learnt steps on its way to stride 4.

    Pass k merges each map with its coarser neighbour; after len(channels) − 1 passes one map is left.
    """

    def __init__(self, channels: list[int], outputs: int):
        super().__init__()
        # Coarse maps are narrow in area, so they may be wide in channels: half as wide as the backbone's.
        widths = [max(outputs, c // 2) for c in channels]
        widths[0] = outputs
        self.lateral = nn.ModuleList(conv(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.project, self.merge = nn.ModuleList(), nn.ModuleList()
        for last in range(len(channels) - 1, 0, -1):
            self.project.append(nn.ModuleList(conv(widths[i + 1], widths[i], 1) for i in range(last)))
            self.merge.append(nn.ModuleList(conv(widths[i], widths[i]) for i in range(last)))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for project, merge in zip(self.project, self.merge, strict=True):
            maps = [
                merge[i](maps[i] + upsample_to(project[i](maps[i + 1]), maps[i])) for i in range(len(merge))
            ]
        return maps[0]


class Unet(nn.Module):
    """U-Net's way up (Ronneberger et al. 2015), by segmentation-models-pytorch, ended at stride 4: beyond it
    the cost doubles for nothing."""

    def __init__(self, channels: list[int], outputs: int):
        super().__init__()
        # Imported here: it takes a second and the other necks do without.
        from . import torchvision_shim  # noqa: F401  before timm, which it imports

        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder  # isort: skip

        # The decoder skips the first feature map, which by its convention is the picture.
        self.decoder = UnetDecoder([0, *channels], [4 * outputs, 2 * outputs, outputs], n_blocks=3)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.decoder([features[0], *features])
