"""A trained network as it predicts: the heat map of all cells, poses at those that are asked for.

Some dozen of fifty thousand cells hold a car. To compute the other heads everywhere would cost from a
fourteenth to two fifths of all arithmetic (docs/benchmarks.md).
"""

import torch
from torch import nn

from .layers import DENSE


class Predictor(nn.Module):
    """network: of build_model, with folded batch norms or as it was trained; put into evaluation mode."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) → the heat map's logits (B, 1, H/4, W/4), and the features that all heads read."""
        features = self.network.features(x)[-1]
        return self.network.last_heads[DENSE](features), features

    def poses(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """What all other heads say at cells (N,), counted through the batch: (N, channels) by name."""
        return self.network.last_heads.at(features, cells)
