"""What every exported file has: the network's maps, and metadata."""

import json
from dataclasses import asdict

import torch

from carpose.config.train_config import TrainConfig
from carpose.data.samples import MEAN, STD


class Maps(torch.nn.Module):
    """A network that takes images (B, H, W, C) and returns the maps of the last stack."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network(images.permute(0, 3, 1, 2))[-1]


def metadata(train_config: TrainConfig, provenance: dict) -> dict[str, str]:
    """The training configuration, its digest, the provenance and the normalisation of images, as JSON."""
    facts = {
        "train_config": asdict(train_config),
        "digest": train_config.digest(),
        "provenance": provenance,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
    }
    return as_texts(facts)


def as_texts(facts: dict[str, object]) -> dict[str, str]:
    """Texts as they are, other values as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }
