"""A GPU's work recorded once and replayed as one call: CUDA graphs.

A training step is one to three thousand operations, each of which costs Python and the driver more time than
most take on a fast GPU: it waited for them for half of the time and more (docs/lab/profiles.md). A graph
issues all at once. Operations and their order stay the same, and so do the results, bit for bit.
"""

from collections import Counter
from collections.abc import Callable

import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from models.predictor import Predictor

from .device import autocast_dtype

UNRECORDED = 2  # calls of the same shapes before one is recorded: in them libraries load and choose


def can_record(train_config: TrainConfig, device: torch.device, processes: int = 1) -> bool:
    """Whether a training's passes can become a graph: float16's scaler decides in Python, and several
    processes wait for each other."""
    return (
        device.type == "cuda" and processes == 1 and autocast_dtype(device, train_config.amp) != torch.float16
    )


class Recorded:
    """A function of tensors on a GPU, replayed for shapes that it was called with before.

    It must not wait for the GPU, must do the same for all values of one shape, and what else it reads has to
    stay where it is. What it returns, tensors in lists, tuples or dicts, lasts until the next call.
    Raises UserError for what cannot be recorded.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.calls: Counter = Counter()
        self.graphs: dict[tuple, tuple] = {}  # by shapes: graph, inputs, outputs
        self.pool = None  # their memory: only one of them is at work

    def __call__(self, **inputs: torch.Tensor):
        shapes = tuple((name, value.dtype, value.shape) for name, value in inputs.items())
        if shapes not in self.graphs:
            self.calls[shapes] += 1
            if self.calls[shapes] <= UNRECORDED:
                return self.function(**inputs)
            self.graphs[shapes] = self.record(inputs)
        graph, static_inputs, outputs = self.graphs[shapes]
        for name, value in inputs.items():
            static_inputs[name].copy_(value, non_blocking=True)
        graph.replay()
        return outputs

    def record(self, inputs: dict[str, torch.Tensor]) -> tuple:
        graph = torch.cuda.CUDAGraph()
        static_inputs = {name: torch.empty_like(value, device="cuda") for name, value in inputs.items()}
        try:
            # Of this thread alone: another one pins the memory of coming batches meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                outputs = self.function(**static_inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # to go on would be to go on with a damaged allocator
            raise UserError(
                f"this GPU's work cannot be recorded as a CUDA graph ({error}); "
                "set running: {graphs: false}, and each operation is issued by itself"
            ) from error
        self.pool = graph.pool()
        return graph, static_inputs, outputs


class Replayed(torch.nn.Module):
    """A Predictor on a GPU with its network recorded."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        self.recorded = Recorded(predictor)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heatmap, features = self.recorded(x=x)
        return heatmap.clone(), features.clone()  # the poses are asked for after other pictures

    def poses(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.predictor.poses(features, cells)
