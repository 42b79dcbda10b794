"""One demo scene: cars on a road, buildings and trees → the picture of it, and how much of each car shows."""

from dataclasses import dataclass

import cv2
import numpy as np

from .painter import Painter
from .shapes import Mesh
from .street import Plane

PAINT = np.array(
    [[200, 200, 200], [235, 235, 232], [40, 40, 45], [90, 92, 96], [150, 25, 25], [25, 45, 120],
     [120, 100, 70], [60, 80, 60], [180, 150, 40], [15, 15, 18], [140, 145, 150]]
)  # fmt: skip


@dataclass(frozen=True)
class Rendering:
    """photo: (H, W, 3) uint8 RGB; quality: of its JPEG; owner: (H, W) which car a pixel shows (−1: none);
    share: (N,) of each car what is to be seen, counting the part cut off by the frame as hidden."""

    photo: np.ndarray
    quality: int
    owner: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class PlacedCar:
    """mesh in its own frame; position: (3,) metres, camera frame; matrix: its rotation, 3×3."""

    mesh: Mesh
    position: np.ndarray
    matrix: np.ndarray

    def placed(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points of the mesh's frame → camera frame."""
        return points @ self.matrix.T + self.position


def render(
    rng: np.random.Generator,
    cars: list[PlacedCar],
    plane: Plane,
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> Rendering:
    """Paint the scene, what is farthest first."""
    painter = Painter(rng, intrinsics, size, plane)
    road = rng.normal(0, 0.08)
    painter.background(road)
    painter.shadows(_footprints(painter, cars))
    full = np.zeros(len(cars))
    for _, thing, what in sorted(_things(rng, cars), key=lambda thing: -thing[0]):
        if thing == "building":
            colour = rng.uniform(90, 200) + rng.normal(0, 12, 3)
            painter.building(*what, rng.uniform(10, 25), rng.uniform(10, 30), rng.uniform(8, 45), colour)
        elif thing == "tree":
            painter.tree(*what, rng.uniform(4, 9))
        else:
            paint = np.clip(PAINT[rng.integers(len(PAINT))] + rng.normal(0, 15, 3), 5, 250)
            car = cars[what]
            full[what] = painter.car(what, car.mesh, car.position, car.matrix, paint)
    seen = np.bincount(painter.owner[painter.owner >= 0], minlength=len(cars))[: len(cars)]
    whole = np.array([_outline_area(painter, car) for car in cars])
    share = seen / np.maximum(np.maximum(whole, full), 1)
    photo, quality = painter.finish()
    return Rendering(photo, quality, painter.owner, share)


def _footprints(painter: Painter, cars: list[PlacedCar]) -> list[np.ndarray]:
    """(4, 2) pixels under each car that is before the camera."""
    footprints = []
    for car in cars:
        sx, sy, sz = car.mesh.size / 2
        corners = np.array([[a * sx, -sy, b * sz] for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))])
        points = car.placed(corners)
        if points[:, 2].min() > 0.5:
            footprints.append(painter.project(points))
    return footprints


def _things(rng: np.random.Generator, cars: list[PlacedCar]) -> list[tuple]:
    """(distance, kind, what): the cars by number, and buildings and trees beside the road by x and z."""
    scenery = []
    for _ in range(int(rng.integers(4, 14))):
        side, z = rng.choice([-1, 1]), rng.uniform(25, 160)
        scenery.append(("building", side * rng.uniform(34, 60), z))
    for _ in range(int(rng.integers(3, 14))):
        scenery.append(("tree", rng.choice([-1, 1]) * rng.uniform(18, 40), rng.uniform(15, 120)))
    things = [(np.linalg.norm(car.position), "car", number) for number, car in enumerate(cars)]
    return things + [(np.hypot(x, z), kind, (x, z)) for kind, x, z in scenery]


def _outline_area(painter: Painter, car: PlacedCar) -> float:
    """Pixels of a car's outline, the part outside the frame included."""
    points = car.placed(car.mesh.vertices)
    if points[:, 2].min() < 0.5:
        return np.inf
    return cv2.contourArea(cv2.convexHull(painter.project(points).astype(np.float32)))
