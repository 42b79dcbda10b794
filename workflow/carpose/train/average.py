"""The moving average of a network's weights, which is what a training results in."""

import torch

import models  # noqa: F401  prepares the import of timm, see models.torchvision_shim

from timm.utils import ModelEmaV3  # isort: skip

from .flat import flatten


class MovingAverage(ModelEmaV3):
    """timm's moving average with warm-up; of all tensors of a type at once.

    Going through both state dicts in each step takes 3 % of a step of the smallest networks.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        """The model's tensors become parts of one, see carpose.flat, and have to stay so."""
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=0.75)
        own, current = (list(one.state_dict(keep_vars=True).values()) for one in (self.module, model))
        self.pairs = [
            tuple(flatten([one for one in tensors if one.dtype == dtype]) for tensors in (own, current))
            for dtype in sorted({one.dtype for one in own}, key=str)
        ]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After step number `step`, from 0; the model is the one that this was made of."""
        for mine, current in self.pairs:
            if mine.is_floating_point():
                mine.lerp_(current, 1 - self.get_decay(step))
            else:
                mine.copy_(current)
