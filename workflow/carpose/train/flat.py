"""Hundreds of tensors as one, so that what is done to all of them is one call."""

import itertools

import torch

ALIGNED = 16  # numbers; each tensor starts at a multiple of 64 bytes, as PyTorch's own do


def flatten(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Move tensors of one type and device into one of them all, (N,), of which each is a part from now on.

    Each keeps its shape and layout in memory; what lies between them is 0.
    """
    starts = [0, *itertools.accumulate(-(-tensor.numel() // ALIGNED) * ALIGNED for tensor in tensors)]
    flat = tensors[0].detach().new_zeros(starts[-1])
    for tensor, start in zip(tensors, starts, strict=False):
        own = flat.as_strided(tensor.shape, tensor.stride(), start)
        own.copy_(tensor.detach())
        tensor.data = own
    return flat
