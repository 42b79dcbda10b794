"""The depth with its uncertainty: two channels, a value and the log of its Laplace scale."""

from collections.abc import Callable

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera

from .head import Cars, Cells, Detections, Head, Tensors

TYPICAL_DEPTH = 35.0  # metres at the reference focal length; a car at this depth has the target 0
UNKNOWN_SIGMA = 10.0  # standard deviation of log z where the output corresponds to no depth


# Relative depth → target, and target → relative depth; relative to TYPICAL_DEPTH and the focal length.
Parametrisation = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
PARAMETRISATIONS: dict[str, Parametrisation] = {
    "log": (np.log, np.exp),
    "direct": (lambda z: z - 1, lambda t: np.maximum(t + 1, 1e-2)),
    "inverse": (lambda z: 1 / z - 1, lambda t: 1 / np.maximum(t + 1, 1e-2)),
    "sigmoid": (lambda z: -np.log(z), lambda t: np.exp(-np.clip(t, -20, 20))),  # 1/σ(t) − 1
}


class DepthHead(Head):
    """Base class of heads that predict a depth in two channels; a subclass chooses the parametrisation."""

    parametrisation: Parametrisation

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        """(M, 1) and, if labels have a depth error, its Laplace scale (M, 1) under the name `…_noise`."""
        to_target, _ = self.parametrisation
        relative = cars.xyz[:, 2] * cars.focal_reference / (cars.focal * TYPICAL_DEPTH)
        targets = {self.name: to_target(relative).astype(np.float32)[cells.car, None]}
        if cars.noise is not None:
            # Laplace scale = standard deviation / √2, times |d target / d log z|.
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
        """Negative log-likelihood of a Laplace distribution (Kendall & Gal 2017): |error|/b + log b.

        The network predicts s = log b, clamped to −6 … 4. If labels have a depth error, with Laplace scale
        `noise`, the scales are added in squares: b² = exp(2s) + noise². All depth heads are computed in one
        call, which is faster; the batched call rounds differently.
        """
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
        """The mean over the 3×3 cells, weighted by `log_weight` and by the predicted precision 1/b²: the
        neighbours predict the depth of the same car."""
        weight = torch.softmax(log_weight - 2 * outputs[..., 1], dim=1)  # log 1/b² = −2s
        return (weight[..., None] * outputs).sum(1)

    def depth(self, output: np.ndarray, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
        (_, to_depth), value = self.parametrisation, output[:, 0]
        scale = TYPICAL_DEPTH * camera.focal(detections.intrinsics) / detections.focal_reference
        z = np.clip(to_depth(value) * scale, 0.5, 5000)
        # Standard deviation of a Laplace distribution: √2·b, times |d log z / d output|.
        step = 1e-4
        slope = np.abs(np.log(to_depth(value + step) / to_depth(value - step))) / (2 * step)
        sigma = np.sqrt(2) * np.exp(np.clip(output[:, 1], -10, 5)) * slope
        return z, np.where(slope > 0, sigma, UNKNOWN_SIGMA)


class Depth(DepthHead):
    """The depth in the parametrisation of the training configuration (`depth`)."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        super().__init__(name, channels, train_config)
        self.parametrisation = PARAMETRISATIONS[train_config.depth]
