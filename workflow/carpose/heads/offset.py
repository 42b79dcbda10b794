"""The offset from a cell to its car's centre, which with the depth gives x and y; or, with
`position: regressed`, x and y themselves."""

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera

from .head import Cars, Cells, Detections, Head

POSITION_UNIT = 10.0  # metres; scales regressed x and y to about one


class Offset(Head):
    """Two channels: offset to the right and down in cells, or x and y in units of POSITION_UNIT."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        super().__init__(name, channels, train_config)
        self.regressed = train_config.position == "regressed"

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        offset = cars.xyz[cells.car, :2] / POSITION_UNIT if self.regressed else cells.offset
        return {self.name: offset.astype(np.float32)}

    def mirrored(self, output: torch.Tensor) -> torch.Tensor:
        return output * output.new_tensor([-1, 1])

    def position(self, output: np.ndarray, detections: Detections) -> np.ndarray:
        """x, y, z (N, 3) in metres, from the outputs (N, 2) and the merged depth."""
        z = detections.z
        if self.regressed:
            return np.column_stack([output * POSITION_UNIT, z])
        uv = detections.column_row + output
        return camera.backproject(detections.intrinsics, uv, z) if len(z) else np.empty((0, 3))
