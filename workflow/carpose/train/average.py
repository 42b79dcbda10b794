"""The moving average of a network's weights, which is what a training results in."""

import torch

import models.torchvision_shim  # noqa: F401  must come before timm

from timm.utils import ModelEmaV3  # isort: skip


class MovingAverage(ModelEmaV3):
    """timm's moving average with warm-up, its tensors looked up once.

    Going through both state dicts in each step takes 3 % of a step of the smallest networks.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        """The model's tensors have to stay where they are in memory."""
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=0.75)
        both = [list(network.state_dict().values()) for network in (self.module, model)]
        self.averaged, self.copied = (
            [[tensor for tensor in tensors if tensor.is_floating_point() == wanted] for tensors in both]
            for wanted in (True, False)
        )

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After step number `step`, from 0; the model is the one that this was made of."""
        torch._foreach_lerp_(*self.averaged, 1 - self.get_decay(step))
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
