"""The optimiser, the learning rate at every step, and the moving average of the network weights."""

from collections.abc import Callable

import torch

import models.torchvision_shim  # noqa: F401  must come before timm
from carpose.config.train_config import TrainConfig

from .muon import Muon

from timm.optim import create_optimizer_v2  # isort: skip
from timm.scheduler import create_scheduler_v2  # isort: skip
from timm.utils import ModelEmaV3  # isort: skip

FUSED = {"adam", "adamw", "sgd"}  # optimisers that torch has as one fused kernel


def make_optimizer(model: torch.nn.Module, train_config: TrainConfig, lr: float) -> torch.optim.Optimizer:
    """The optimiser of the training configuration; lr: peak learning rate. Biases and norms have no weight
    decay."""
    if train_config.optimizer == "muon":
        return Muon(model.parameters(), lr, train_config.weight_decay)
    # One kernel for all tensors: otherwise it takes a tenth of a small network's step on the CPU.
    fused = {"fused": True} if train_config.optimizer in FUSED else {}
    return create_optimizer_v2(
        model, opt=train_config.optimizer, lr=lr, weight_decay=train_config.weight_decay, **fused
    )


def scaled_lr(train_config: TrainConfig) -> float:
    """The peak learning rate: lr · (batch_size / lr_batch_size)^e, e = 0, ½ or 1 by `lr_scaling`."""
    exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[train_config.lr_scaling]
    return train_config.lr * (train_config.batch_size / train_config.lr_batch_size) ** exponent


def lr_schedule(name: str, steps: int, peak: float, warmup: float) -> Callable[[int], float]:
    """A function step 0 … steps − 1 → learning rate: linear warm-up, then a schedule of timm by its `name`.

    peak: peak learning rate; warmup: share of the steps. The smooth schedules end at 1 % of the peak; `step`
    multiplies by 0.1 after each third, `multistep` after 2/3 and 8/9; `wsd` and `rsqrt` decay to the end in
    the last third. timm's `plateau` is not supported: it needs the validation metric, which would leak the
    validation photos into the training.
    """
    warmup_steps = max(1, round(warmup * steps))
    decay_steps = max(1, steps - warmup_steps)
    dummy_optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedule, _ = create_scheduler_v2(
        dummy_optimizer,
        sched=name,
        num_epochs=decay_steps,
        decay_epochs=max(1, decay_steps // 3),
        decay_milestones=[decay_steps * 2 // 3, decay_steps * 8 // 9],
        decay_rate=1.0 if name == "poly" else 0.1,
        stable_timescale=warmup_steps,
        min_lr=0.01 * peak,
        step_on_epochs=False,
        updates_per_epoch=1,
    )

    def lr_at(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        schedule.step_update(step - warmup_steps)
        return dummy_optimizer.param_groups[0]["lr"]

    return lr_at


class MovingAverage(ModelEmaV3):
    """timm's moving average of the network weights, with warm-up. It is the result of a training.

    The pairs of tensors are looked up once: iterating over both state dicts takes 3 % of a small network's
    step.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        """The model's tensors must not be replaced later, only changed in place."""
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=0.75)
        state_lists = [list(network.state_dict().values()) for network in (self.module, model)]
        self.averaged, self.copied = (
            [
                [tensor for tensor in tensors if tensor.is_floating_point() == is_float]
                for tensors in state_lists
            ]
            for is_float in (True, False)
        )

    @torch.no_grad()
    def update_from_model(self, step: int) -> None:
        """Update after step number `step` (from 0) from the model given at construction."""
        torch._foreach_lerp_(*self.averaged, 1 - self.get_decay(step))
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
