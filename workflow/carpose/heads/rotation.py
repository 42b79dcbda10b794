"""The rotation: sine and cosine of yaw, of pitch, and of roll + π, which are continuous at ±π."""

import numpy as np
import torch

from carpose.geometry import rotation

from .head import Cars, Cells, Detections, Head


class Rotation(Head):
    """Six channels: sin yaw, cos yaw, sin pitch, cos pitch, sin(roll + π), cos(roll + π)."""

    def targets(self, cars: Cars, cells: Cells) -> dict[str, np.ndarray]:
        yaw_pitch_roll = rotation.angles(cars.rotation)[:, [1, 0, 2]] + [0, 0, np.pi]
        pairs = np.stack([np.sin(yaw_pitch_roll), np.cos(yaw_pitch_roll)], axis=2).reshape(-1, 6)
        return {self.name: pairs.astype(np.float32)[cells.car]}

    def mirrored(self, output: torch.Tensor) -> torch.Tensor:
        """sin yaw and sin(roll + π) change sign with x → −x; pitch and all cosines do not."""
        return output * output.new_tensor([-1, 1, 1, 1, -1, 1])

    def columns(self, output: np.ndarray, detections: Detections) -> dict[str, np.ndarray]:
        """`angles` (N, 3): pitch, yaw, roll in radians."""
        yaw, pitch, roll = np.arctan2(output[:, 0::2], output[:, 1::2]).T
        matrices = rotation.matrix(np.column_stack([pitch, yaw, roll - np.pi]))  # angles in their usual range
        return {"angles": rotation.angles(matrices)}
