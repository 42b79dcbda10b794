"""The base class of all heads, and the data that a head makes targets from and decodes."""

from dataclasses import dataclass, field, fields

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.registry import resolve
from carpose.registry.heads import HEADS

STRIDE = 4  # network pixels per cell

Tensors = dict[str, torch.Tensor]


@dataclass
class Cars:
    """The cars of a batch whose centres are inside the maps, each in the camera frame of its image."""

    xyz: np.ndarray  # (N, 3) metres
    rotation: np.ndarray  # (N, 3, 3)
    weight: np.ndarray  # (N,) sample weight: 1 label, 0 … 1 pseudo label, 0 ignored
    noise: np.ndarray | None  # (N,) standard deviation of the label's log z; None: labels have no error
    photo: np.ndarray  # (N,) index of the photo in the batch
    uv: np.ndarray  # (N, 2) the projected centre, in cells
    column: np.ndarray  # (N,) column of the centre's cell
    row: np.ndarray  # (N,) and its row
    focal: np.ndarray  # (N,) focal length of the photo's map, in cells
    focal_reference: float  # focal length of the view without augmentation, in cells of its map

    def __getitem__(self, rows: np.ndarray) -> "Cars":
        """A selection of the cars, by index or mask."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Cars(**{k: v[rows] if isinstance(v, np.ndarray) else v for k, v in values.items()})


@dataclass
class Cells:
    """The M positive cells (assigned to a car), sorted by cell index, and the car of each."""

    cell: np.ndarray  # (M,) cell index
    car: np.ndarray  # (M,) row in Cars
    offset: np.ndarray  # (M, 2) from the cell to its car's centre, in cells
    weight: np.ndarray  # (M,) float32, weight in the loss: larger nearer to the centre


@dataclass
class Detections:
    """The cells in which cars were detected, and what has been decoded so far."""

    photo: np.ndarray  # (N,) index of the photo in the batch
    column_row: np.ndarray  # (N, 2) column and row of each cell
    intrinsics: np.ndarray  # 3×3, of the maps
    focal_reference: float  # focal length of the view without augmentation, in cells of its map
    z: np.ndarray = field(init=False)  # (N,) metres; set before `position`
    xyz: np.ndarray = field(init=False)  # (N, 3) metres; set before `columns`


class Head:
    """A head that is trained at the positive cells (only the heat map is trained at all cells).

    A subclass implements `targets` and `columns` or `depth`; all other methods have a default.
    """

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        self.name, self.channels = name, channels

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        """The targets at the cells: float32 arrays (M, numbers) by names that no other head uses. The default
        loss reads the array with this head's name."""
        return {}

    def loss(self, output: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
        """The loss of a batch, a scalar: the mean error over the cells, weighted by targets["weight"].

        output (M, channels) float32; targets: of the batch, see heads.targets.encode; totals: the divisors,
        see heads.loss.compute. Default: L1, averaged over the channels.
        """
        error = (output - targets[self.name]).abs() * targets["weight"][:, None]
        return error.sum() / (self.channels * totals["cells"])

    @classmethod
    def losses(
        cls, heads: list["Head"], outputs: list[torch.Tensor], targets: Tensors, totals: Tensors
    ) -> list[torch.Tensor]:
        """The losses of several heads that share this method. A subclass overrides it to compute them in one
        call; the default calls `loss` of each."""
        return [head.loss(output, targets, totals) for head, output in zip(heads, outputs, strict=True)]

    def mirrored(self, output: torch.Tensor) -> torch.Tensor:
        """Outputs (N, channels) in the mirrored image → the corresponding outputs in the image itself."""
        return output

    def pooled(self, outputs: torch.Tensor, log_weight: torch.Tensor) -> torch.Tensor:
        """Outputs (N, 9, channels) at the 3×3 cells around each centre → (N, channels).

        log_weight (N, 9): log of each cell's weight. Default: the outputs of the centre's cell."""
        return outputs[:, 4]

    def depth(self, output: np.ndarray, detections: Detections) -> tuple[np.ndarray, np.ndarray] | None:
        """Outputs (N, channels) float64 → z (N,) in metres and the standard deviation (N,) of log z, or None.

        The depths of all heads are merged."""
        return None

    def columns(self, output: np.ndarray, detections: Detections) -> dict[str, np.ndarray]:
        """Outputs (N, channels) float64 → arrays (N, …) by column name of the table of cars."""
        return {}


def make_heads(train_config: TrainConfig) -> dict[str, Head]:
    """The network's heads by name in the registry's order: those that are not optional, and
    `train_config.heads`."""
    return {
        name: resolve(entry.builder)(name, entry.channels, train_config)
        for name, entry in HEADS.items()
        if not entry.optional or name in train_config.heads
    }
