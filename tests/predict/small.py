"""Untrained networks for tests of predictions."""

from dataclasses import replace

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.network.checkpoint import build, save_checkpoint

TRAIN_CONFIG = TrainConfig(backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64)
CPU = torch.device("cpu")


def checkpoint(path, provenance=None, **changes):
    """Write an untrained network; `seed` changes its weights, not the training configuration in the file."""
    train_config = replace(TRAIN_CONFIG, **changes)
    save_checkpoint(path, build(train_config).state_dict(), replace(train_config, seed=0), provenance or {})
    return path


def same(a, b):
    assert len(a) == len(b) > 0 and (a.ImageId.to_numpy() == b.ImageId.to_numpy()).all()
    numbers = [name for name in a if name != "ImageId"]
    np.testing.assert_allclose(a[numbers], b[numbers], rtol=1e-4, atol=1e-4)
