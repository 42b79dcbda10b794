"""Rotations of cars: Euler angles ↔ matrix ↔ quaternion, distance and mean.

A car's rotation is R = Rz(roll)·Rx(pitch)·Ry(yaw): SciPy's extrinsic 'yxz'. For the data set's labels,
R·(0,1,0) points up from the car. Their roll is near ±π, so angles must not be averaged; use quaternions.
All functions are vectorised over the leading axis. SciPy's Rotation is not used because it is slow: for the
few cars of a photo it takes longer than all other targets together, and its import longer than the start of
most stages.
"""

import numpy as np

MIRROR = np.diag(
    [-1.0, 1.0, 1.0]
)  # x → −x; applies to the scene and, as cars are symmetric, to a car's frame


def matrix(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll in radians → (N, 3, 3)."""
    angles = np.asarray(angles, float).reshape(-1, 3).T
    (cp, cy, cr), (sp, sy, sr) = np.cos(angles), np.sin(angles)
    entries = [
        *(cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy),
        *(sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy),
        *(-cp * sy, sp, cp * cy),
    ]
    return np.stack(entries, axis=-1).reshape(-1, 3, 3)


def angles(matrix: np.ndarray) -> np.ndarray:
    """(N, 3, 3) → (N, 3) radians: pitch in [−π/2, π/2], yaw and roll in [−π, π]."""
    r = np.asarray(matrix, float).reshape(-1, 3, 3)
    cos_pitch = np.hypot(r[:, 2, 0], r[:, 2, 2])
    pitch = np.arctan2(r[:, 2, 1], cos_pitch)
    yaw = np.arctan2(-r[:, 2, 0], r[:, 2, 2])
    roll = np.arctan2(-r[:, 0, 1], r[:, 1, 1])
    locked = cos_pitch < 1e-7  # gimbal lock: yaw and roll turn about one axis, so yaw is set to 0
    if locked.any():
        yaw, roll = np.where(locked, [np.zeros(len(r)), np.arctan2(r[:, 1, 0], r[:, 0, 0])], [yaw, roll])
    return np.stack([pitch, yaw, roll], axis=-1)


def about(axis: int, angle: np.ndarray) -> np.ndarray:
    """(N,) radians → (N, 4) unit quaternions x, y, z, w of a rotation about x, y or z (axis 0, 1, 2)."""
    half = np.asarray(angle, float) / 2
    result = np.zeros((*half.shape, 4))
    result[..., axis], result[..., 3] = np.sin(half), np.cos(half)
    return result


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 4) quaternions x, y, z, w: the rotation b followed by a."""
    (ax, ay, az, aw), (bx, by, bz, bw) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    components = [
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ]
    return np.stack(components, axis=-1)


def quaternion(angles: np.ndarray) -> np.ndarray:
    """(N, 3) pitch, yaw, roll in radians → (N, 4) unit quaternions x, y, z, w (of either sign)."""
    pitch, yaw, roll = np.asarray(angles, float).reshape(-1, 3).T
    return product(about(2, roll), product(about(0, pitch), about(1, yaw)))


def angles_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(N, 4) quaternions x, y, z, w of any length → (N, 3) pitch, yaw, roll in radians, as of `angles`."""
    q = np.asarray(quaternion, float).reshape(-1, 4)
    x, y, z, w = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return angles(np.stack(entries, axis=-1))


def mean_quaternion(
    quaternions: np.ndarray, weights: np.ndarray, groups: np.ndarray, count: int
) -> np.ndarray:
    """Weighted mean rotation of each group: the eigenvector of Σ w·q·qᵀ with the largest eigenvalue.

    Source: Markley et al., "Averaging Quaternions", 2007. The sign of q does not matter.

    quaternions (N, 4); weights (N,) ≥ 0; groups (N,) in 0…count−1 → (count, 4) unit quaternions.
    """
    outer = weights[:, None, None] * quaternions[:, :, None] * quaternions[:, None, :]
    sums = np.zeros((count, 4, 4))
    np.add.at(sums, groups, outer)
    return np.linalg.eigh(sums)[1][:, :, -1]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Geodesic angle in radians, 0…π, between (..., 4) unit quaternions a and b."""
    dot = np.abs(np.sum(a * b, axis=-1))
    return 2 * np.arccos(np.clip(dot, 0, 1))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angle in radians → the same angle in [−π, π)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi
