"""Many tensors as parts of one: nothing about each of them changes."""

import torch

from carpose.flat import flatten


def test_tensors_become_parts_of_one():
    torch.manual_seed(0)
    shapes = [(3,), (8, 4, 3, 3), (), (5, 7)]
    tensors = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    tensors[1].data = tensors[1].data.contiguous(memory_format=torch.channels_last)
    before = [tensor.detach().clone() for tensor in tensors]
    strides = [tensor.stride() for tensor in tensors]
    flat = flatten(tensors)
    for tensor, old, stride in zip(tensors, before, strides, strict=True):
        assert torch.equal(tensor, old) and tensor.stride() == stride
        assert tensor.data_ptr() % 64 == flat.data_ptr() % 64
    torch.testing.assert_close(flat.norm(), torch.cat([old.reshape(-1) for old in before]).norm())
    flat.mul_(2)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, 2 * old)
        tensor.sum().backward()  # still leaves of their own
        assert torch.equal(tensor.grad, torch.ones_like(old))
