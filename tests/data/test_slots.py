"""Batches come out of shared memory as they went in, of any size, and last until the next is taken."""

import time

import numpy as np
import torch

from carpose.slots import Slots


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index


def collate(some):
    """A batch that grows and shrinks from one to the next, with tensors of three types and an array."""
    number = some[0]
    generator = torch.Generator().manual_seed(number)
    first = torch.rand(2, 3 + number % 5, 7, generator=generator)
    named = {
        "bytes": torch.randint(0, 255, (number % 3, 5), generator=generator, dtype=torch.uint8),
        "flags": torch.rand(11, generator=generator) > 0.5,
        "array": np.arange(number),
    }
    return first, named, [f"photo {number}"]


def test_batches_are_what_they_were():
    for workers in (1, 2):
        slots = Slots(collate, 2 * 7 * 7 * 4 + 2 * 5 + 11, workers)
        loader = torch.utils.data.DataLoader(
            Numbers(),
            batch_sampler=[[number] for number in range(40)],
            num_workers=workers,
            collate_fn=slots.leave,
            prefetch_factor=slots.AHEAD,
        )
        held = set()
        for number, (first, named, rest) in enumerate(map(slots.take, loader)):
            expected, others, names = collate([number])
            assert torch.equal(first, expected) and first.shape == expected.shape and rest == names
            assert list(named) == ["bytes", "flags", "array"]
            for name, value in others.items():
                assert type(named[name]) is type(value) and named[name].dtype == value.dtype
                np.testing.assert_array_equal(named[name], value)
            held.add(first.data_ptr())
            if number < 12:
                time.sleep(0.05)  # for the workers to run ahead as far as they can
                assert torch.equal(first, expected)
        assert len(held) == workers * (slots.AHEAD + 1)
