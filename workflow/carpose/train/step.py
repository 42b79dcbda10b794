"""One training's network, optimiser and moving average, and a step of them.

The loop around it is carpose.train.loop.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from carpose.config.train_config import TrainConfig
from carpose.data.samples import network_input
from carpose.heads import loss
from carpose.network import graphs
from carpose.network.checkpoint import build
from carpose.network.device import autocast_dtype, fetch

from . import distributed
from .optimizer import MovingAverage, make_optimizer, scaled_rate


@dataclass
class Progress:
    """What a training has done so far; everything here is saved with the weights."""

    epoch: int = 0
    batch: int = 0  # next batch of this epoch
    step: int = 0
    lr_scale: float = 1.0  # factor on the learning rate, halved when a training goes back
    sums: dict[str, float] = field(default_factory=dict)  # losses summed over this epoch's batches
    history: list[dict] = field(default_factory=list)


class Training:
    """Network, optimiser, moving average and progress of one training."""

    def __init__(
        self,
        train_config: TrainConfig,
        start: torch.nn.Module | None,
        device: torch.device,
        record: bool = True,
    ):
        """start: the network that it goes on with; record: on a GPU, where it can be, as a CUDA graph."""
        self.train_config, self.device = train_config, device
        model = build(train_config) if start is None else start
        self.model = distributed.synchronised(model.to(device), device)
        self.ema = MovingAverage(self.model, train_config.ema_decay)
        self.parameters = list(self.model.parameters())
        self.network = distributed.wrap(self.model, device)
        self.peak_rate = scaled_rate(train_config)
        self.optimizer = make_optimizer(self.model, train_config, self.peak_rate)
        self.dtype = autocast_dtype(device, train_config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        weights = loss.weights(train_config)
        self.terms = list(weights)
        self.loss_weights = torch.tensor(list(weights.values()), dtype=torch.float32, device=device)
        self.recorded = None
        if record and graphs.can_record(train_config, device, distributed.size()):
            self.recorded = graphs.Recorded(self.forward_backward)
        # Steps that may be under way while the next one starts; all of several processes judge one at once.
        self.max_in_flight = int(device.type == "cuda" and distributed.size() == 1)

    def step(
        self, pictures: torch.Tensor, targets: dict[str, torch.Tensor], rate: float
    ) -> Callable[[], dict[str, float]]:
        """Start a step of the optimiser. The call that is returned waits for it and gives the losses of the
        batch and the norm of its gradients. If the step `is_broken` the weights are lost.

        On a GPU the next step can start before that, so many as `max_in_flight` says.
        """
        if not self.network.training:
            self.network.train()  # goes through all layers, a fiftieth of a small network's step
        targets = {name: torch.as_tensor(value) for name, value in targets.items()}
        forward_backward = self.recorded or self.forward_backward
        losses, gradients = forward_backward(pictures=pictures, **targets)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_from_model(self.progress.step)
        fetched = fetch(distributed.mean(losses))
        return lambda: dict(zip(["loss", *self.terms, "norm"], fetched(), strict=True))

    def forward_backward(
        self, pictures: torch.Tensor, **targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Forward and backward passes → float64 (loss, its terms, the norm of the gradients), and of each
        parameter the gradient, clipped."""
        train_config = self.train_config
        counts = loss.local_counts(targets).to(self.device, non_blocking=True)
        totals = loss.as_totals(distributed.count(counts))
        targets = {name: value.to(self.device, non_blocking=True) for name, value in targets.items()}
        for parameter in self.parameters:
            parameter.grad = None  # the optimiser's zero_grad takes two to five times as long
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            outputs = self.network(network_input(pictures, self.device, train_config), targets["cell"])
        values = torch.stack(list(loss.compute(outputs, targets, train_config, totals).values()))
        total = values @ self.loss_weights
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters]
        present = [gradient for gradient in gradients if gradient is not None]
        norm = torch.stack(torch._foreach_norm(merged(present))).norm().double()
        # On the device, which is not waited for. A norm that is not finite changes nothing.
        share = train_config.clip_norm / norm
        torch._foreach_mul_(present, torch.where((share > 0) & (share < 1), share, 1.0).float())
        return torch.cat([total[None], values, norm[None]]).detach(), gradients

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


def merged(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with all vectors as one: a call for each bias would take longer than the matrices do."""
    vectors = [tensor for tensor in tensors if tensor.dim() == 1]
    return [tensor for tensor in tensors if tensor.dim() != 1] + ([torch.cat(vectors)] if vectors else [])
