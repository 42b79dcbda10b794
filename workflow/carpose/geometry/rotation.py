"""Rotations of cars: Euler angles ↔ matrix ↔ quaternion, distance and mean.

A car's rotation is R = Rz(roll)·Rx(pitch)·Ry(yaw): SciPy's extrinsic 'yxz'. On the data's labels
R·(0,1,0) is then the car's up. Roll sits at ±π: only matrices and quaternions may be averaged.
All functions are vectorised over the leading axis. They are written out because SciPy's take longer for
the few cars of a photo than all the rest of its targets, and to import than most stages need to start.
"""

import numpy as np

MIRROR = np.diag([-1.0, 1.0, 1.0])  # x → −x, of the scene and of a (symmetric) car alike


def matrix(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll in radians → (N, 3, 3)."""
    angles = np.asarray(angles, float).reshape(-1, 3).T
    (cp, cy, cr), (sp, sy, sr) = np.cos(angles), np.sin(angles)
    cells = [
        *(cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy),
        *(sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy),
        *(-cp * sy, sp, cp * cy),
    ]
    return np.stack(cells, axis=-1).reshape(-1, 3, 3)


def angles(matrix: np.ndarray) -> np.ndarray:
    """(N, 3, 3) → (N, 3) pitch in [−π/2, π/2], yaw and roll in [−π, π]."""
    r = np.asarray(matrix, float).reshape(-1, 3, 3)
    level = np.hypot(r[:, 2, 0], r[:, 2, 2])
    pitch = np.arctan2(r[:, 2, 1], level)
    yaw = np.arctan2(-r[:, 2, 0], r[:, 2, 2])
    roll = np.arctan2(-r[:, 0, 1], r[:, 1, 1])
    upright = level < 1e-7  # yaw and roll turn about one axis: the roll gets all of it
    if upright.any():
        yaw, roll = np.where(upright, [np.zeros(len(r)), np.arctan2(r[:, 1, 0], r[:, 0, 0])], [yaw, roll])
    return np.stack([pitch, yaw, roll], axis=-1)


def about(axis: int, angle: np.ndarray) -> np.ndarray:
    """(N,) radians → (N, 4) unit quaternions x, y, z, w of a turn about x, y or z (axis 0, 1, 2)."""
    half = np.asarray(angle, float) / 2
    result = np.zeros((*half.shape, 4))
    result[..., axis], result[..., 3] = np.sin(half), np.cos(half)
    return result


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 4) quaternions of the rotation b followed by a."""
    (ax, ay, az, aw), (bx, by, bz, bw) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    parts = [
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ]
    return np.stack(parts, axis=-1)


def quaternion(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll → (N, 4) unit quaternions x, y, z, w (either of the two signs)."""
    pitch, yaw, roll = np.asarray(angles, float).reshape(-1, 3).T
    return product(about(2, roll), product(about(0, pitch), about(1, yaw)))


def angles_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, z, w → (N, 3) pitch, yaw, roll."""
    q = np.asarray(quaternion, float).reshape(-1, 4)
    x, y, z, w = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    cells = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return angles(np.stack(cells, axis=-1))


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
