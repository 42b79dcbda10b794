"""Network, optimiser and moving average of one training, and one step; the loop is carpose.train.loop."""

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
from .optimizer import MovingAverage, make_optimizer, scaled_lr


@dataclass
class Progress:
    """The progress of a training; saved in its state with the network weights."""

    epoch: int = 0
    batch: int = 0  # number of the next batch in this epoch
    step: int = 0  # steps since the start of the training
    lr_scale: float = 1.0  # factor on the learning rate, halved at each rollback
    sums: dict[str, float] = field(default_factory=dict)  # losses summed over this epoch's batches
    history: list[dict] = field(default_factory=list)  # one row per finished epoch


class Training:
    """Network, optimiser, moving average and progress of one training."""

    def __init__(
        self,
        train_config: TrainConfig,
        initial_network: torch.nn.Module | None,
        device: torch.device,
        use_cuda_graph: bool = True,
    ):
        """initial_network: the network to train, None for a new one; use_cuda_graph: where
        graphs.can_record allows it."""
        self.train_config, self.device = train_config, device
        model = build(train_config) if initial_network is None else initial_network
        self.model = distributed.sync_batch_norms(model.to(device), device)
        self.ema = MovingAverage(self.model, train_config.ema_decay)
        self.parameters = list(self.model.parameters())
        self.network = distributed.wrap(self.model, device)
        self.peak_lr = scaled_lr(train_config)
        self.optimizer = make_optimizer(self.model, train_config, self.peak_lr)
        self.dtype = autocast_dtype(device, train_config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        loss_weights = loss.loss_weights(train_config)
        self.terms = list(loss_weights)
        self.loss_weights = torch.tensor(list(loss_weights.values()), dtype=torch.float32, device=device)
        self.cuda_graph: graphs.Recorded | None = None  # of forward_backward
        if use_cuda_graph and graphs.can_record(train_config, device, distributed.world_size()):
            self.cuda_graph = graphs.Recorded(self.forward_backward)
        # Steps that may be unfinished when the next one starts. Several processes check each step together.
        self.max_in_flight = int(device.type == "cuda" and distributed.world_size() == 1)

    def step(
        self, images: torch.Tensor, targets: dict[str, torch.Tensor], lr: float
    ) -> Callable[[], dict[str, float]]:
        """Start one step of the optimiser; images (B, H, W, 4) uint8 or normalised; lr: learning rate.

        The function returned waits for the step and gives the batch's losses and gradient norm by name. If
        these are not finite (`is_broken`), the network weights are invalid. On a GPU up to `max_in_flight`
        steps can be unfinished when the next one starts.
        """
        if not self.network.training:
            self.network.train()  # visits all layers: 2 % of a small network's step
        targets = {name: torch.as_tensor(value) for name, value in targets.items()}
        forward_backward = self.cuda_graph or self.forward_backward
        losses, gradients = forward_backward(images=images, **targets)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_from_model(self.progress.step)
        fetch_result = fetch(distributed.mean(losses))
        return lambda: dict(zip(["loss", *self.terms, "norm"], fetch_result(), strict=True))

    def forward_backward(
        self, images: torch.Tensor, **targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Forward and backward pass → float64 (weighted loss, unweighted terms, norm of the gradients), and
        the clipped gradient of each parameter."""
        train_config = self.train_config
        counts = loss.local_counts(targets).to(self.device, non_blocking=True)
        totals = loss.as_totals(distributed.mean_counts(counts))
        targets = {name: value.to(self.device, non_blocking=True) for name, value in targets.items()}
        for parameter in self.parameters:
            parameter.grad = None  # the optimiser's zero_grad takes two to five times as long
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            outputs = self.network(network_input(images, self.device, train_config), targets["cell"])
        values = torch.stack(list(loss.compute(outputs, targets, train_config, totals).values()))
        total = values @ self.loss_weights
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters]
        present = [gradient for gradient in gradients if gradient is not None]
        norm = torch.stack(torch._foreach_norm(concatenate_vectors(present))).norm().double()
        # Clipped on the device, without waiting for it. With a norm that is not finite nothing is scaled.
        clip_scale = train_config.clip_norm / norm
        torch._foreach_mul_(
            present, torch.where((clip_scale > 0) & (clip_scale < 1), clip_scale, 1.0).float()
        )
        return torch.cat([total[None], values, norm[None]]).detach(), gradients

    def is_broken(self, values: dict[str, float]) -> bool:
        """Whether a loss or the gradient norm is not finite. With float16 only a loss: GradScaler skips a
        step whose gradients overflow."""
        ignored = {"norm"} if self.scaler.is_enabled() else set()
        return any(not math.isfinite(value) for name, value in values.items() if name not in ignored)

    def state(self) -> dict:
        """All that is needed to resume bit for bit; see restore."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "progress": vars(self.progress),
        }

    def accepts(self, saved: dict) -> bool:
        """Whether a state can be restored; one of another version of the code may have other contents."""
        current = self.state()

        def layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
            return {name: tensor.shape for name, tensor in tensors.items()}

        try:
            same_networks = all(layout(saved[key]) == layout(current[key]) for key in ("model", "ema"))
            same_progress = set(saved["progress"]) == set(current["progress"])
            return set(saved) == set(current) and same_networks and same_progress
        except (AttributeError, KeyError, TypeError):
            return False

    def restore(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # empty if the state was saved without float16
            self.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["random"])
        self.progress = Progress(**saved["progress"])


def concatenate_vectors(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors with all 1-D ones concatenated: one call for each bias takes longer than all matrices."""
    vectors = [tensor for tensor in tensors if tensor.dim() == 1]
    return [tensor for tensor in tensors if tensor.dim() != 1] + ([torch.cat(vectors)] if vectors else [])
