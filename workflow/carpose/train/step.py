"""One training's network, optimiser and moving average, and a step of them.

The loop around it, with its files, is carpose.train.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import UserError, codec, data, distributed, graphs, losses
from .average import MovingAverage
from .checkpoint import build, load_checkpoint
from .device import fetch, number_format
from .optim import make_optimizer, scaled_rate
from .recipe import Recipe


@dataclass
class Progress:
    """What a training has done so far; everything here is saved with the weights."""

    epoch: int = 0
    batch: int = 0  # next batch of this epoch
    step: int = 0
    rate: float = 1.0  # factor on the learning rate, halved when a training goes back
    sums: dict[str, float] = field(default_factory=dict)  # losses summed over this epoch's batches
    weights: dict[str, float] = field(default_factory=dict)  # of the losses
    history: list[dict] = field(default_factory=list)


class Training:
    """Network, optimiser, moving average and progress of one training."""

    def __init__(self, recipe: Recipe, later_round: bool, start: Path | None, device: torch.device):
        self.recipe, self.device = recipe, device
        model = build(recipe)
        if start is not None:
            try:
                model.load_state_dict(load_checkpoint(start)[0].state_dict())
            except RuntimeError:
                raise UserError(
                    f"{start}: holds another network than this recipe describes; train it again, or take "
                    "retrain_start: scratch"
                ) from None
        self.model = distributed.synchronised(model.to(device), device)
        self.ema = MovingAverage(self.model, recipe.ema_decay)
        self.parameters = list(self.model.parameters())
        self.network = distributed.wrap(self.model, device)
        self.peak_rate = scaled_rate(recipe, later_round)
        self.optimizer = make_optimizer(self.model, recipe, self.peak_rate)
        self.dtype = number_format(device, recipe.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress(weights=losses.weights(recipe))
        self.terms = list(self.progress.weights)
        self.recorded = graphs.Recorded(self.passes) if graphs.can_record(recipe, device) else None
        # Steps that may be under way while the next one starts; all of several processes judge one at once.
        single = distributed.size() == 1 and recipe.loss_balance != "learned"
        self.ahead = int(device.type == "cuda" and single)

    def step(
        self, pictures: torch.Tensor, targets: dict[str, torch.Tensor], rate: float
    ) -> Callable[[], dict[str, float]]:
        """Start a step of the optimiser. The call that is returned waits for it and gives the losses of the
        batch and the norm of its gradients. If the step `is_broken` the weights are lost.

        On a GPU the next step can start before that, so many as `ahead` says.
        """
        weights = self.progress.weights
        if not self.network.training:
            self.network.train()  # goes through all layers, a hundredth of a small network's step
        targets = {name: torch.as_tensor(value) for name, value in targets.items()}
        balance = torch.tensor([weights[name] for name in self.terms])
        run = self.recorded or self.passes
        found, gradients = run(pictures=pictures, balance=balance, **targets)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.follow(self.progress.step)
        coming = fetch(distributed.mean(found))

        def result() -> dict[str, float]:
            values = dict(zip(["loss", *self.terms, "norm"], coming(), strict=True))
            if self.recipe.loss_balance == "learned" and not self.is_broken(values):
                self.progress.weights = losses.balanced(weights, values, self.recipe)
            return values

        return result

    def passes(
        self, pictures: torch.Tensor, balance: torch.Tensor, **targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Forward and backward passes. balance: weights of the losses → float64 (loss, its terms, the norm of
        the gradients), and of each parameter the gradient, clipped."""
        recipe = self.recipe
        counts = losses.counts(targets, self.device)
        balance = balance.to(self.device, non_blocking=True)
        # Taken apart before they go to a GPU: to pick cells there is to wait for it.
        parts = codec.split(pictures, targets, min(recipe.accumulate, len(pictures)))
        sums: list[torch.Tensor] = []
        for parameter in self.parameters:
            parameter.grad = None  # the optimiser's zero_grad takes two to five times as long
        for some, own in parts:
            own = {name: value.to(self.device, non_blocking=True) for name, value in own.items()}
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                outputs = self.network(data.network_input(some, self.device, recipe), own["cell"])
            values = torch.stack(list(losses.compute(outputs, own, recipe, counts).values()))
            total = values @ balance
            # Several processes average their gradients after each part, which comes to the same as once.
            self.scaler.scale(total).backward()
            sums.append(torch.cat([total[None], values]).detach())
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters]
        there = [gradient for gradient in gradients if gradient is not None]
        norm = torch.stack(torch._foreach_norm(joined(there))).norm().double()
        # On the device, which is not waited for. A norm that is not finite changes nothing.
        share = recipe.clip_norm / norm
        torch._foreach_mul_(there, torch.where((share > 0) & (share < 1), share, 1.0).float())
        return torch.cat([sum(sums).double(), norm[None]]), gradients

    def is_broken(self, values: dict[str, float]) -> bool:
        """Whether a loss or the gradients are not finite; a scaler of float16 deals with gradients itself."""
        expected = {"norm"} if self.scaler.is_enabled() else set()
        return any(not math.isfinite(value) for name, value in values.items() if name not in expected)

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "progress": vars(self.progress),
        }

    def restore(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # empty where it began on a GPU that needs none
            self.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["random"])
        self.progress = Progress(**saved["progress"])


def joined(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with all vectors as one: a call for each bias would take longer than the matrices do."""
    vectors = [tensor for tensor in tensors if tensor.dim() == 1]
    return [tensor for tensor in tensors if tensor.dim() != 1] + ([torch.cat(vectors)] if vectors else [])
