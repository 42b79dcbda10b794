"""Necks: feature maps of strides 4, 8, 16, 32 → one map of stride 4."""

import torch
from torch import nn

from .layers import conv, upsample_to


class Fpn(nn.Module):
    """Feature pyramid network (Lin et al. 2017): the coarser map is upsampled and added to the finer one."""

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
    """Iterative deep aggregation (DLA-up, Yu et al. 2018): coarse features pass through several learnt layers
    on their way to stride 4.

    Each pass merges every map with its coarser neighbour; after len(channels) − 1 passes one map is left.
    """

    def __init__(self, channels: list[int], outputs: int):
        super().__init__()
        # Coarse maps have few cells, so more channels are cheap: half of the backbone's.
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
    """U-Net's decoder (Ronneberger et al. 2015) of segmentation-models-pytorch, up to stride 4."""

    def __init__(self, channels: list[int], outputs: int):
        super().__init__()
        # Imported here: it takes a second, and the other necks do not need it.
        from . import torchvision_shim  # noqa: F401  before timm, which it imports

        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder  # isort: skip

        # The decoder ignores the first feature map, by its convention the image: hence 0 channels.
        self.decoder = UnetDecoder([0, *channels], [4 * outputs, 2 * outputs, outputs], n_blocks=3)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.decoder([features[0], *features])
