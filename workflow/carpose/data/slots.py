"""Memory that a process shares with the workers it forks, in which they leave their batches.

A tensor that comes out of a worker by itself brings a file, new pages on both sides and a talk between two
threads. For a small network that is more than its losses take (docs/benchmarks.md).
"""

import itertools
import math
import mmap
import os
from collections.abc import Callable, Iterator

import torch

ALIGNED = 64  # bytes


class Slots:
    """A worker's slots are filled in turn: one more than it prepares, for the batch that the training holds.
    With the training's next batch that one is lost."""

    AHEAD = 2  # batches that each worker prepares, at most

    def __init__(self, collate: Callable, largest: int, workers: int):
        """collate: samples → (tensor, {name: tensor or array}, anything); largest: bytes of its tensors,
        not too few; pages that are never written to take no memory."""
        largest = (-(-largest // ALIGNED) + 8) * ALIGNED  # each tensor starts at a multiple
        self.collate = collate
        shape = workers, self.AHEAD + 1, largest
        # Not share_memory_(): that is a file in /dev/shm, which is small in many containers.
        self.memory = torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)
        self.turns = itertools.cycle(range(self.AHEAD + 1))

    def leave(self, samples: list) -> tuple:
        """In a worker: samples → what goes through the pipe."""
        first, named, rest = self.collate(samples)
        tensors = {"": first, **{name: value for name, value in named.items() if torch.is_tensor(value)}}
        small = {name: value for name, value in named.items() if name not in tensors}
        slot = torch.utils.data.get_worker_info().id, next(self.turns)
        forms = {name: (value.dtype, value.shape) for name, value in tensors.items()}
        for name, place in self.places(slot, forms).items():
            place.copy_(tensors[name])
        return slot, forms, small, rest

    def take(self, message: tuple) -> tuple:
        """In the training: what came through the pipe → the batch, which stays until the next is taken."""
        slot, forms, small, rest = message
        tensors = self.places(slot, forms)
        return tensors.pop(""), {**tensors, **small}, rest

    def places(self, slot: tuple[int, int], forms: dict[str, tuple]) -> dict[str, torch.Tensor]:
        """Tensors of these types and shapes, one after the other in a slot."""
        own, start, found = self.memory[slot], 0, {}
        for name, (dtype, shape) in forms.items():
            end = start + math.prod(shape) * dtype.itemsize
            found[name] = own[start:end].view(dtype).view(shape)
            start = -(-end // ALIGNED) * ALIGNED
        return found


def apart(number: int) -> None:
    """In a new worker: leave the group of processes, all of which Slurm and torchrun send SIGTERM.

    A worker dies of it and takes the training along, which was to save its state. It ends its workers itself.
    """
    os.setpgid(0, 0)


def loader(
    dataset: torch.utils.data.Dataset, collate: Callable, largest: int, workers: int, **options
) -> Iterator[tuple]:
    """Batches as `collate` makes them, by so many forked workers that see what is open (0: by this process).

    Each lasts until the next is taken. collate and largest: of Slots; options: of torch's DataLoader.
    """
    if workers == 0:
        return iter(torch.utils.data.DataLoader(dataset, collate_fn=collate, **options))
    slots = Slots(collate, largest, workers)
    batches = torch.utils.data.DataLoader(
        dataset,
        collate_fn=slots.leave,
        num_workers=workers,
        prefetch_factor=slots.AHEAD,
        multiprocessing_context="fork",
        worker_init_fn=apart,
        **options,
    )
    return map(slots.take, batches)
