"""Muon: momentum whose matrices are made orthogonal before each step; AdamW for everything else.

After Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with steps as large as AdamW's
(Liu et al. 2025, https://arxiv.org/abs/2502.16982). timm's takes one matrix at a time, in bf16: for the many
small convolutions here more than half as long as forward and backward together. This takes a fifth of that
(docs/lab/profiles.md).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

MOMENTUM = 0.9  # 0.95 as published learns more slowly in short trainings (docs/lab/studies.md)
# Five steps of p(x) = a·x + b·x³ + c·x⁵ that take singular values from 0.01 … 1 to near one: those of
# https://github.com/KellerJordan/modded-nanogpt, which are timm's default too.
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalising(matrices: list[torch.Tensor]) -> torch.Tensor:
    """(K, M, M) factors of K matrices (M, N), of one M ≤ any N: a factor times its matrix is the nearest one
    with orthonormal rows, singular values 0.7 … 1.2.

    Newton-Schulz iteration. All of its polynomials are of X·Xᵀ, so it is done on these small M×M matrices,
    all in one batch.
    """
    gram = torch.stack([x @ x.mT for x in matrices])
    squares = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-14)[:, None, None]
    gram = gram / squares  # singular values of at most 1
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = None
    for a, b, c in COEFFICIENTS:
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor if product is None else torch.bmm(factor, product)
        gram = torch.bmm(gram, torch.bmm(factor, factor))
    return product * squares.rsqrt()


def is_matrix(parameter: torch.Tensor) -> bool:
    """Convolutions as (outputs, inputs · pixels); not depthwise ones, nor those to one or two channels."""
    return parameter.ndim > 1 and parameter.shape[1] > 1 and min(parameter.flatten(1).shape) >= 4


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A view of a convolution's weights as a matrix that is not higher than wide. Its columns (or rows) come
    as they lie in memory: their order makes no difference here."""
    matrix = tensor.as_strided((len(tensor), tensor.numel() // len(tensor)), (tensor.stride(0), 1))
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Muon(torch.optim.AdamW):
    """Weight decay is for matrices alone."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float):
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        others = [parameter for parameter in parameters if not is_matrix(parameter)]
        if any(matrix.stride(0) * len(matrix) != matrix.numel() for matrix in matrices):
            raise ValueError("weights have to lie in memory one output channel after the other")
        # One kernel for all tensors; on a GPU it would take the scaler's part too, and not skip a step.
        fused = {"fused": True} if parameters[0].device.type == "cpu" else {}
        groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices}]
        super().__init__(groups, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, **fused)

    @torch.no_grad()
    def step(self, closure=None):
        group = self.param_groups[1]
        matrices = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in matrices:
            if not self.state[parameter]:
                # AdamW looks for a step in every state that it restores.
                self.state[parameter].update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))
        momenta = [self.state[parameter]["momentum"] for parameter in matrices]
        torch._foreach_lerp_(momenta, [parameter.grad for parameter in matrices], 1 - MOMENTUM)
        by_rows = defaultdict(list)
        for parameter, momentum in zip(matrices, momenta, strict=True):
            momentum = as_matrix(momentum)
            by_rows[len(momentum)].append((as_matrix(parameter), momentum))
        kept = 1 - group["lr"] * group["weight_decay"]
        for same_shape in by_rows.values():
            factors = orthogonalising([momentum for _, momentum in same_shape])
            for (weights, momentum), factor in zip(same_shape, factors, strict=True):
                rate = group["lr"] * 0.2 * momentum.shape[1] ** 0.5
                weights.addmm_(factor, momentum, beta=kept, alpha=-rate)
        for parameter in matrices:
            parameter.grad = None  # used up; AdamW's own step passes over it
        return super().step(closure)
