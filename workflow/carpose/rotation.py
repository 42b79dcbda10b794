"""Rotations of cars: Euler angles ↔ matrix ↔ quaternion, distance and mean.

A car's rotation is R = Rz(roll)·Rx(pitch)·Ry(yaw): SciPy's extrinsic 'yxz'. On the data's labels
R·(0,1,0) is then the car's up. Roll sits at ±π: only matrices and quaternions may be averaged.
All functions are vectorised over the leading axis.
"""

import numpy as np
from scipy.spatial.transform import Rotation

MIRROR = np.diag([-1.0, 1.0, 1.0])  # x → −x, of the scene and of a (symmetric) car alike


def matrix(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll in radians → (N, 3, 3)."""
    angles = np.asarray(angles, float).reshape(-1, 3)
    if not len(angles):
        return np.empty((0, 3, 3))
    return Rotation.from_euler("yxz", angles[:, [1, 0, 2]]).as_matrix()


def angles(matrix: np.ndarray) -> np.ndarray:
    """(N, 3, 3) → (N, 3) pitch in [−π/2, π/2], yaw and roll in [−π, π]."""
    matrix = np.asarray(matrix, float).reshape(-1, 3, 3)
    if not len(matrix):
        return np.empty((0, 3))
    return Rotation.from_matrix(matrix).as_euler("yxz")[:, [1, 0, 2]]


def quaternion(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll → (N, 4) unit quaternions x, y, z, w (either of the two signs)."""
    angles = np.asarray(angles, float).reshape(-1, 3)
    if not len(angles):
        return np.empty((0, 4))
    return Rotation.from_euler("yxz", angles[:, [1, 0, 2]]).as_quat()


def angles_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, z, w → (N, 3) pitch, yaw, roll."""
    quaternion = np.asarray(quaternion, float).reshape(-1, 4)
    if not len(quaternion):
        return np.empty((0, 3))
    return Rotation.from_quat(quaternion).as_euler("yxz")[:, [1, 0, 2]]


def mean_quaternion(
    quaternions: np.ndarray, weights: np.ndarray, groups: np.ndarray, count: int
) -> np.ndarray:
    """Weighted mean rotation of each group: the top eigenvector of Σ w·q·qᵀ.

    Markley et al., "Averaging Quaternions", 2007: blind to the sign of q, exact on the rotation group.

    quaternions (N, 4); weights (N,) ≥ 0; groups (N,) in 0…count−1 → (count, 4).
    """
    outer = weights[:, None, None] * quaternions[:, :, None] * quaternions[:, None, :]
    sums = np.zeros((count, 4, 4))
    np.add.at(sums, groups, outer)
    return np.linalg.eigh(sums)[1][:, :, -1]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Geodesic angle in radians, 0…π, between (..., 4) quaternions a and b."""
    dot = np.abs(np.sum(a * b, axis=-1))
    return 2 * np.arccos(np.clip(dot, 0, 1))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angle in radians → the same angle in [−π, π)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi
