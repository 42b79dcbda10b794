"""Random roads and random poses of cars on them, for the demo scenes."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Plane:
    """The plane of car centres, y = height + tilt·x + slope·z (camera frame, metres), above the road."""

    height: float
    tilt: float
    slope: float

    @property
    def up(self) -> np.ndarray:
        """(3,) the unit normal that points up."""
        normal = np.array([self.tilt, -1.0, self.slope])
        return normal / np.linalg.norm(normal)

    def y(self, x: np.ndarray | float, z: np.ndarray | float) -> np.ndarray | float:
        """y of the plane at x and z, metres."""
        return self.height + self.tilt * x + self.slope * z


def sample_plane(rng: np.random.Generator) -> Plane:
    """A random plane near y = 1.463 + 0.0402·x + 0.1597·z, the fit to the data set's labels."""
    return Plane(rng.normal(1.463, 0.12), rng.normal(0.04, 0.03), rng.normal(0.1597, 0.012))


def heading_matrix(up: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(N,) headings in radians (0: away from the camera, π: oncoming) on the plane with normal `up` (3,) →
    (N, 3, 3) rotations."""
    forward = np.column_stack([np.sin(yaw), np.zeros_like(yaw), np.cos(yaw)])
    forward -= (forward @ up)[:, None] * up
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    up = np.broadcast_to(up, forward.shape)
    return np.stack([np.cross(up, forward), up, forward], axis=2)


def sample_cars(
    rng: np.random.Generator, plane: Plane, intrinsics: np.ndarray, width: int, max_distance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (N, 3) in metres, rotations (N, 3, 3) and headings (N,) in radians of cars that do not touch.

    Three quarters of the cars drive along or across the lanes of a road, a quarter has random headings. The
    distances are log-normal, as in the data set's labels, and below max_distance (metres). intrinsics: 3×3;
    width: of the photo in pixels.
    """
    road = rng.normal(0, 0.08)  # heading
    lanes = np.arange(-5, 6) * 3.4 + rng.uniform(-1.7, 1.7)
    count = int(np.clip(rng.gamma(4.0, 3.0), 2, 40))
    placed: list[tuple[float, float, float]] = []
    for _ in range(count * 12):  # attempts
        if len(placed) == count:
            break
        z = np.exp(rng.normal(np.log(42), 0.75))
        if not 5 < z < max_distance:
            continue
        if rng.random() < 0.25:  # a random heading
            x, yaw = rng.uniform(-1, 1) * 0.74 * z, rng.uniform(-np.pi, np.pi)
        else:
            x = rng.choice(lanes) + np.tan(road) * z + rng.normal(0, 0.3)
            oncoming = x < np.tan(road) * z - 1 and rng.random() < 0.8
            cross = rng.random() < 0.08
            yaw = road + rng.normal(0, 0.04) + (np.pi if oncoming else 0)
            yaw += (rng.choice([-1, 1]) * np.pi / 2) * cross
        u = intrinsics[0, 0] * x / z + intrinsics[0, 2]
        if not -0.02 * width < u < 1.02 * width:
            continue
        if all(_apart((x, z, yaw), car) for car in placed):
            placed.append((x, z, yaw))
    all_x, all_z, headings = np.array(placed).reshape(-1, 3).T
    deviations = rng.normal(0, 0.012, (max(len(placed), 1), 3))
    noise = Rotation.from_euler("xyz", deviations).as_matrix()[: len(placed)]
    matrices = heading_matrix(plane.up, headings) @ noise if placed else np.empty((0, 3, 3))
    return np.column_stack([all_x, plane.y(all_x, all_z), all_z]), matrices, headings


def _apart(a: tuple, b: tuple) -> bool:
    """Whether two cars (x, z, yaw) do not touch: three discs along each do not overlap, seen from above."""
    if np.hypot(a[0] - b[0], a[1] - b[1]) > 6:
        return True
    along = np.array([-1.5, 0, 1.5])
    discs = [np.column_stack([x + along * np.sin(yaw), z + along * np.cos(yaw)]) for x, z, yaw in (a, b)]
    return np.linalg.norm(discs[0][:, None] - discs[1][None], axis=2).min() > 2.2
