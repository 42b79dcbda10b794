"""What every head is: the base class, and what a head is given to make targets from and to decode."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.registry import resolve
from carpose.registry.heads import HEADS

STRIDE = 4  # network pixels per cell

Tensors = dict[str, torch.Tensor]


@dataclass
class Cars:
    """The cars of a batch that are on its maps, in the camera frame of their pictures."""

    xyz: np.ndarray  # (N, 3) metres
    rotation: np.ndarray  # (N, 3, 3)
    weight: np.ndarray  # (N,) 1: labelled, 0 … 1: pseudo label, 0: unsure
    noise: np.ndarray | None  # (N,) standard deviation of a label's log z; None: all labels are true
    photo: np.ndarray  # (N,) index of each car's picture
    uv: np.ndarray  # (N, 2) the centre in cells
    column: np.ndarray  # (N,) the cell of the centre
    row: np.ndarray  # (N,)
    focal: np.ndarray  # (N,) focal length of each car's picture, in cells
    focal_reference: float  # that of the nominal maps

    def __getitem__(self, rows: np.ndarray) -> "Cars":
        """Some of the cars, by index or mask."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Cars(**{k: v[rows] if isinstance(v, np.ndarray) else v for k, v in values.items()})


@dataclass
class Cells:
    """Which cells learn which car: M of them, in their order."""

    cell: np.ndarray  # (M,) counted through the batch
    car: np.ndarray  # (M,) row in Cars
    offset: np.ndarray  # (M, 2) from the cell to the car's centre, in cells
    weight: np.ndarray  # (M,) float32, the more the nearer the centre


@dataclass
class Detections:
    """The cells in which cars were detected, and what is decoded of them so far."""

    picture: np.ndarray  # (N,) index in the batch
    place: np.ndarray  # (N, 2) column and row of each cell
    intrinsics: np.ndarray  # 3×3, of the maps
    focal_reference: float
    z: np.ndarray | None = None  # (N,) metres: there once the depths are merged
    xyz: np.ndarray | None = None  # (N, 3) metres: there for `columns`


class Head:
    """A head that is learnt at cells. A subclass says what: `targets`, and `columns` or `depth`; the rest has
    a default. The heat map alone is learnt everywhere."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        self.name, self.channels = name, channels

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        """What the cells learn: float32 arrays (M, numbers) by names that no other head uses; the default
        loss takes the one with this head's own name."""
        return {}

    def loss(self, output: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
        """The mean error of all cells, by their weight; averaged over the processes of a training it is the
        batch's.

        output (M, channels) float32; targets: all of the batch, see heads.targets; totals: see heads.loss.
        Default: L1, the mean over the channels.
        """
        error = (output - targets[self.name]).abs() * targets["weight"][:, None]
        return error.sum() / (self.channels * totals["cells"])

    @classmethod
    def losses(
        cls, heads: list["Head"], outputs: list[torch.Tensor], targets: Tensors, totals: Tensors
    ) -> list[torch.Tensor]:
        """`loss` of each of several heads that share this method, so that a kind of heads can compute them
        all at once."""
        return [head.loss(output, targets, totals) for head, output in zip(heads, outputs, strict=True)]

    def mirrored(self, output: torch.Tensor) -> torch.Tensor:
        """(N, channels), what is said of a car in the mirror image → what that means for the car itself."""
        return output

    def pooled(self, outputs: torch.Tensor, log_weight: torch.Tensor) -> torch.Tensor:
        """(N, 9, channels) at the nine cells about each centre → (N, channels). log_weight (N, 9): how much
        each cell counts. Default: the cell in the middle."""
        return outputs[:, 4]

    def depth(self, output: np.ndarray, detections: Detections) -> tuple[np.ndarray, np.ndarray] | None:
        """(N, channels) float64 → the depth (N,) in metres and the standard deviation of its log, where the
        head says them; those of all heads are merged."""
        return None

    def columns(self, output: np.ndarray, detections: Detections) -> dict[str, np.ndarray]:
        """(N, channels) float64 → arrays (N, …) by name for the table of cars; where they are is known."""
        return {}


def make_heads(train_config: TrainConfig) -> dict[str, Head]:
    """The recipe's heads, by name in the registry's order: the fixed ones, and others that it names."""
    return {
        name: resolve(entry.builder)(name, entry.channels, train_config)
        for name, entry in HEADS.items()
        if not entry.optional or name in train_config.heads
    }
