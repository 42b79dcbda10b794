"""The optimiser of a recipe, its learning rate at every step, and the moving average of the weights."""

from collections.abc import Callable

import torch

import models.torchvision_shim  # noqa: F401  must come before timm
from carpose.config.train_config import TrainConfig

from .muon import Muon

from timm.optim import create_optimizer_v2  # isort: skip
from timm.scheduler import create_scheduler_v2  # isort: skip
from timm.utils import ModelEmaV3  # isort: skip

FUSED = {"adam", "adamw", "sgd"}  # what torch has as one kernel


def make_optimizer(model: torch.nn.Module, train_config: TrainConfig, rate: float) -> torch.optim.Optimizer:
    """The recipe's optimiser; weight decay is not for biases and norms."""
    if train_config.optimizer == "muon":
        return Muon(model.parameters(), rate, train_config.weight_decay)
    # One kernel for all tensors: a small network on the CPU spends a tenth of a step here otherwise.
    fused = {"fused": True} if train_config.optimizer in FUSED else {}
    return create_optimizer_v2(
        model, opt=train_config.optimizer, lr=rate, weight_decay=train_config.weight_decay, **fused
    )


def scaled_rate(train_config: TrainConfig) -> float:
    """The peak learning rate for the recipe's batch size."""
    exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[train_config.lr_scaling]
    return train_config.lr * (train_config.batch_size / train_config.lr_batch_size) ** exponent


def rate_schedule(name: str, steps: int, peak: float, warmup: float) -> Callable[[int], float]:
    """The learning rate of each step 0 … steps − 1: a linear warm-up over the first `warmup` share, then a
    schedule of timm, the cosine and its like down to 1 % of the peak. Steps: a tenth at each of thirds;
    wsd and rsqrt fall to the end in the last third. (timm's `plateau` waits for the metric of the fold's own
    photos, which would leak them into the training.)
    """
    rise = max(1, round(warmup * steps))
    fall = max(1, steps - rise)
    carrier = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedule, _ = create_scheduler_v2(
        carrier,
        sched=name,
        num_epochs=fall,
        decay_epochs=max(1, fall // 3),
        decay_milestones=[fall * 2 // 3, fall * 8 // 9],
        decay_rate=1.0 if name == "poly" else 0.1,
        stable_timescale=rise,
        min_lr=0.01 * peak,
        step_on_epochs=False,
        updates_per_epoch=1,
    )

    def rate(step: int) -> float:
        if step < rise:
            return peak * (step + 1) / rise
        schedule.step_update(step - rise)
        return carrier.param_groups[0]["lr"]

    return rate


class MovingAverage(ModelEmaV3):
    """timm's moving average with warm-up, the result of a training; its tensors are looked up once.

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
    def update_from_model(self, step: int) -> None:
        """After step number `step`, from 0; the model is the one that this was made of."""
        torch._foreach_lerp_(*self.averaged, 1 - self.get_decay(step))
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
