"""The depth with its uncertainty: a number and the log of its Laplace scale."""

from collections.abc import Callable

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera

from .head import Cars, Cells, Detections, Head, Tensors

TYPICAL_DEPTH = 35.0  # metres at the reference focal length: centres the output on zero
UNKNOWN = 10.0  # standard deviation of log z where an output is beyond all depths


# What is learnt of a depth relative to TYPICAL_DEPTH and the focal length: depth → target, target → depth.
Parametrisation = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
PARAMETRISATIONS: dict[str, Parametrisation] = {
    "log": (np.log, np.exp),
    "direct": (lambda z: z - 1, lambda t: np.maximum(t + 1, 1e-2)),
    "inverse": (lambda z: 1 / z - 1, lambda t: 1 / np.maximum(t + 1, 1e-2)),
    "sigmoid": (lambda z: -np.log(z), lambda t: np.exp(-np.clip(t, -20, 20))),  # 1/σ(t) − 1
}


class DepthHead(Head):
    """A head of two channels that estimates the depth; a subclass chooses the parametrisation."""

    parametrisation: Parametrisation

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        """(M, 1), and under `…_noise` the Laplace scale of the label's own error, where labels have one."""
        to_target, _ = self.parametrisation
        relative = cars.xyz[:, 2] * cars.focal_reference / (cars.focal * TYPICAL_DEPTH)
        targets = {self.name: to_target(relative).astype(np.float32)[cells.car, None]}
        if cars.noise is not None:
            # A Laplace scale is the standard deviation over √2; the slope carries it to the target.
            step = 1e-4
            farther, nearer = (to_target(relative * np.exp(sign * step)) for sign in (1, -1))
            slope = np.abs(farther - nearer) / (2 * step)
            scale = (cars.noise * slope / np.sqrt(2)).astype(np.float32)
            targets[f"{self.name}_noise"] = scale[cells.car, None]
        return targets

    @classmethod
    def losses(
        cls, heads: list[Head], outputs: list[torch.Tensor], targets: Tensors, totals: Tensors
    ) -> list[torch.Tensor]:
        """Laplace likelihood: |error|/b + log b, with s = log b held in a sane range; the variance of a
        pseudo label's own error is not the network's to explain. All depths at once: so few numbers cost less
        than the calls; one by one the last bits of logaddexp would differ."""
        output = torch.stack(outputs)
        error = (output[..., :1] - torch.stack([targets[head.name] for head in heads])).abs()
        s = output[..., 1:].clamp(-6, 4)
        if f"{heads[0].name}_noise" in targets:
            noise = torch.stack([targets[f"{head.name}_noise"] for head in heads])
            s = torch.logaddexp(2 * s, 2 * noise.log()) / 2
        error = error * torch.exp(-s) + s
        return list(((error * targets["weight"][:, None]).sum((1, 2)) / totals["cells"]).unbind())

    def loss(self, output: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
        return self.losses([self], [output], targets, totals)[0]

    def pooled(self, outputs: torch.Tensor, log_weight: torch.Tensor) -> torch.Tensor:
        """The eight cells about a centre learn its depth as well, each with its uncertainty: the mean of all,
        by their precision too."""
        weight = torch.softmax(log_weight - 2 * outputs[..., 1], dim=1)  # the log of a precision
        return (weight[..., None] * outputs).sum(1)

    def depth(self, output: np.ndarray, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
        (_, to_depth), value = self.parametrisation, output[:, 0]
        scale = TYPICAL_DEPTH * camera.focal(detections.intrinsics) / detections.focal_reference
        z = np.clip(to_depth(value) * scale, 0.5, 5000)
        # A Laplace scale b of the output has standard deviation √2·b; the slope carries it to log z.
        step = 1e-4
        slope = np.abs(np.log(to_depth(value + step) / to_depth(value - step))) / (2 * step)
        sigma = np.sqrt(2) * np.exp(np.clip(output[:, 1], -10, 5)) * slope
        return z, np.where(slope > 0, sigma, UNKNOWN)


class Depth(DepthHead):
    """The depth in the recipe's parametrisation."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        super().__init__(name, channels, train_config)
        self.parametrisation = PARAMETRISATIONS[train_config.depth]
