"""A GPU's work recorded once and replayed as one call: CUDA graphs.

A training step is one to three thousand operations, each of which costs Python and the driver more time than
most take on a fast GPU: it waits for its next operation two thirds of the time (docs/benchmarks.md). A graph
issues all at once. Operations and their order stay the same, and so do the results, bit for bit.
"""

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._pytree import tree_map

from models.predictor import Predictor

UNRECORDED = 2  # calls of the same shapes before one is recorded: in them libraries load and choose
LIVING: weakref.WeakSet = weakref.WeakSet()  # what has recorded something


class Recorded:
    """A function of tensors on a GPU, replayed for shapes that it was called with before.

    It must not wait for the GPU, and must do the same for all values of one shape. What it returns, tensors
    in lists, tuples or dicts, lasts until the next call of anything recorded: they share their memory.
    A function that cannot be recorded is called as it is, after a warning.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.calls: Counter = Counter()
        self.graphs: dict[tuple, tuple] = {}  # by shapes: graph, inputs, outputs; empty: as it is
        self.pool = None

    def __call__(self, **inputs: torch.Tensor):
        shapes = tuple((name, value.dtype, value.shape) for name, value in inputs.items())
        if shapes not in self.graphs:
            self.calls[shapes] += 1
            if self.calls[shapes] > UNRECORDED:
                self.graphs[shapes] = self.record(inputs)
        if not self.graphs.get(shapes):
            return self.function(**inputs)
        graph, own, outputs = self.graphs[shapes]
        for name, value in inputs.items():
            own[name].copy_(value, non_blocking=True)
        graph.replay()
        return outputs

    def record(self, inputs: dict[str, torch.Tensor]) -> tuple:
        graph = torch.cuda.CUDAGraph()
        own = {name: torch.empty_like(value, device="cuda") for name, value in inputs.items()}
        current = torch.cuda.current_stream()
        pool = next((other.pool for other in LIVING if other.pool), None)
        try:
            # Of this thread alone: another one pins the memory of coming batches meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = self.function(**own)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # which torch does not, if the end of the recording fails too
            print(f"warning: not recorded as a CUDA graph, so slower: {error}", flush=True)
            return ()
        self.pool = graph.pool()
        LIVING.add(self)
        return graph, own, outputs


class Replayed(torch.nn.Module):
    """A Predictor on a GPU with its network recorded."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        self.recorded = Recorded(lambda x: predictor(x))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tree_map(torch.clone, self.recorded(x=x))  # the poses are asked for after other pictures

    def poses(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.predictor.poses(features, cells)
