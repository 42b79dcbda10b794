"""CUDA graphs: the operations of a function on a GPU are recorded once and replayed as one call.

A training step has 1000 to 3000 operations. Launching one takes Python and the driver longer than most take
on a fast GPU, which was idle for half of the time or more (docs/lab/profiles.md). A graph launches all of
them at once. The operations and their order stay the same, and so do the results, bit for bit.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from models.predictor import Predictor

from .device import autocast_dtype

WARMUP_CALLS = 2  # calls with the same shapes before recording: libraries load and choose algorithms


def can_record(train_config: TrainConfig, device: torch.device, processes: int = 1) -> bool:
    """Whether forward and backward passes can be recorded: not with float16, whose gradient scaler branches
    in Python, and not with several processes, which wait for each other."""
    return (
        device.type == "cuda" and processes == 1 and autocast_dtype(device, train_config.amp) != torch.float16
    )


class Recorded:
    """A function of tensors on a GPU, recorded as one CUDA graph per combination of input shapes.

    The function must not wait for the GPU, must run the same operations for all values, and all other tensors
    that it reads must stay at their addresses. Its outputs (tensors in lists, tuples or dicts) are valid
    until the next call. Raises UserError if the function cannot be recorded.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.calls: Counter = Counter()
        self.graphs: dict[tuple, tuple] = {}  # by shapes: graph, inputs, outputs
        self.pool = None  # memory shared by all graphs, since only one runs at a time

    def __call__(self, **inputs: torch.Tensor) -> Any:
        shapes = tuple((name, value.dtype, value.shape) for name, value in inputs.items())
        if shapes not in self.graphs:
            self.calls[shapes] += 1
            if self.calls[shapes] <= WARMUP_CALLS:
                return self.function(**inputs)
            self.graphs[shapes] = self.record(inputs)
        graph, static_inputs, outputs = self.graphs[shapes]
        for name, value in inputs.items():
            static_inputs[name].copy_(value, non_blocking=True)
        graph.replay()
        return outputs

    def record(self, inputs: dict[str, torch.Tensor]) -> tuple:
        """Record a graph for these shapes: graph, static inputs, outputs."""
        graph = torch.cuda.CUDAGraph()
        static_inputs = {name: torch.empty_like(value, device="cuda") for name, value in inputs.items()}
        try:
            # thread_local: another thread pins the memory of the next batches meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                outputs = self.function(**static_inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # no fallback: a failed capture leaves a damaged allocator
            raise UserError(
                f"this GPU's work cannot be recorded as a CUDA graph ({error}); "
                "set running: {cuda_graphs: false} to run without CUDA graphs"
            ) from error
        self.pool = graph.pool()
        return graph, static_inputs, outputs


class Replayed(torch.nn.Module):
    """A models.predictor.Predictor on a GPU whose forward pass is a CUDA graph."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        self.recorded = Recorded(predictor)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heatmap, features = self.recorded(x=x)
        return heatmap.clone(), features.clone()  # read after the next forward pass, which overwrites them

    def outputs_at(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.predictor.outputs_at(features, cells)
