"""Muon: the momentum of each weight matrix is orthogonalised; AdamW for all other parameters.

After Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with a step size that matches
AdamW's (Liu et al. 2025, https://arxiv.org/abs/2502.16982). timm's Muon orthogonalises one matrix at a time,
in bf16: with many small convolutions this takes more than half of the time of forward and backward pass. The
batched version here takes a fifth of that (docs/lab/profiles.md).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

MOMENTUM = 0.9  # the published 0.95 learns more slowly in short trainings (docs/lab/studies.md)
# Five Newton-Schulz steps p(x) = a·x + b·x³ + c·x⁵ map singular values 0.01 … 1 to about 1. Coefficients of
# https://github.com/KellerJordan/modded-nanogpt, also timm's default.
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalising_factors(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Factors (K, M, M) of K matrices (M, N) with equal M and any N ≥ M: the product of a factor and its
    matrix has nearly orthonormal rows (singular values 0.7 … 1.2).

    Newton-Schulz iteration. A step is X ← (a + b·G + c·G²)·X with G = X·Xᵀ, so the factors follow from the
    small M×M matrices G alone, for all matrices in one batch.
    """
    gram = torch.stack([x @ x.mT for x in matrices])
    norm2 = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-14)[:, None, None]
    gram = gram / norm2  # of X / ‖X‖, whose singular values are at most 1
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = None
    for a, b, c in COEFFICIENTS:
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor if product is None else torch.bmm(factor, product)
        gram = torch.bmm(gram, torch.bmm(factor, factor))
    return product * norm2.rsqrt()


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether Muon updates this parameter: convolutions as matrices (outputs, inputs · kernel pixels), but
    not depthwise ones, nor those with fewer than four outputs or columns."""
    return parameter.ndim > 1 and parameter.shape[1] > 1 and min(parameter.flatten(1).shape) >= 4


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A view of a convolution's weight as a matrix with at most as many rows as columns. The order of inputs
    and kernel pixels is that in memory; it does not change the result."""
    matrix = tensor.as_strided((len(tensor), tensor.numel() // len(tensor)), (tensor.stride(0), 1))
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Muon(torch.optim.AdamW):
    """Muon for matrices (`is_matrix`), with weight decay; AdamW for all other parameters, without.

    Raises ValueError for weights that are not stored one output channel after the other.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float):
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        adamw_parameters = [parameter for parameter in parameters if not is_matrix(parameter)]
        if any(matrix.stride(0) * len(matrix) != matrix.numel() for matrix in matrices):
            raise ValueError("convolution weights must be stored one output channel after the other")
        # Fused only on the CPU: on a GPU GradScaler leaves skipping a step to fused optimisers; Muon cannot.
        fused = {"fused": True} if parameters[0].device.type == "cpu" else {}
        groups = [{"params": adamw_parameters, "weight_decay": 0.0}, {"params": matrices}]
        super().__init__(groups, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, **fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        group = self.param_groups[1]
        matrices = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in matrices:
            if not self.state[parameter]:
                # `step` is unused, but AdamW expects it in every state that it loads.
                self.state[parameter].update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))
        momenta = [self.state[parameter]["momentum"] for parameter in matrices]
        torch._foreach_lerp_(momenta, [parameter.grad for parameter in matrices], 1 - MOMENTUM)
        by_rows = defaultdict(list)
        for parameter, momentum in zip(matrices, momenta, strict=True):
            momentum = as_matrix(momentum)
            by_rows[len(momentum)].append((as_matrix(parameter), momentum))
        decay_factor = 1 - group["lr"] * group["weight_decay"]
        for same_shape in by_rows.values():
            factors = orthogonalising_factors([momentum for _, momentum in same_shape])
            for (matrix, momentum), factor in zip(same_shape, factors, strict=True):
                step_size = group["lr"] * 0.2 * momentum.shape[1] ** 0.5
                matrix.addmm_(factor, momentum, beta=decay_factor, alpha=-step_size)
        for parameter in matrices:
            parameter.grad = None  # so that AdamW's own step skips it
        return super().step(closure)
