"""Renders a demo scene: cars on a road, buildings and trees, painted from far to near.

It draws polygons with OpenCV and needs neither a display nor OpenGL.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from carpose.geometry import camera, rotation
from carpose.geometry.meshes import FIXED_POINT, fixed_point

from .shapes import BODY, DARK, GLASS, HEADLAMP, PLATE, RIM, TAILLAMP, TYRE, Mesh, normals
from .street import Plane, heading_matrix

FIXED = {TYRE: (28, 28, 30), RIM: (150, 150, 155), HEADLAMP: (250, 248, 225), TAILLAMP: (205, 20, 20),
         DARK: (35, 35, 38), PLATE: (70, 110, 200), GLASS: (48, 58, 68)}  # fmt: skip

PAINT = np.array(
    [[200, 200, 200], [235, 235, 232], [40, 40, 45], [90, 92, 96], [150, 25, 25], [25, 45, 120],
     [120, 100, 70], [60, 80, 60], [180, 150, 40], [15, 15, 18], [140, 145, 150]]
)  # fmt: skip


@dataclass(frozen=True)
class Rendering:
    """photo: (H, W, 3) uint8 RGB; quality: of its JPEG, 0–100; car_index: (H, W) the car that a pixel shows
    (−1: none); share: (N,) the visible share of each car's outline, which may extend beyond the photo."""

    photo: np.ndarray
    quality: int
    car_index: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class PlacedCar:
    """model_type: the data set's number; mesh: in the car's frame; position: (3,) metres, camera frame;
    matrix: rotation, 3×3."""

    model_type: int
    mesh: Mesh
    position: np.ndarray
    matrix: np.ndarray

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the car's frame → camera frame, metres."""
        return points @ self.matrix.T + self.position


class Painter:
    """A canvas with a camera, a road, a light and haze.

    intrinsics: 3×3; size: width, height in pixels. `car_index` is as in Rendering.
    """

    def __init__(self, rng: np.random.Generator, intrinsics: np.ndarray, size: tuple[int, int], plane: Plane):
        self.rng, self.intrinsics, self.size, self.plane = rng, intrinsics, size, plane
        self.canvas: np.ndarray = np.zeros((size[1], size[0], 3), np.uint8)
        self.car_index = np.full((size[1], size[0]), -1, np.int16)
        self.light = rotation.MIRROR @ plane.up + rng.normal(0, 0.5, 3)
        self.light /= np.linalg.norm(self.light)
        self.haze = np.array([rng.uniform(190, 225)] * 3) + [-8, 0, 8]
        self.haze_length = rng.uniform(250, 900)  # metres at which the haze has a share of 63 %

    def hazed(self, colour: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
        """(..., 3) colours as they appear at distances (...) in metres."""
        share = np.exp(-np.asarray(distance) / self.haze_length)[..., None]
        return colour * share + self.haze * (1 - share)

    def polygons(self, points: np.ndarray, colour: np.ndarray) -> None:
        """Draw filled polygons of one colour that do not overlap, (N, P, 2) pixels."""
        polygons = list(fixed_point(points))
        cv2.fillPoly(self.canvas, polygons, tuple(map(float, colour)), cv2.LINE_AA, FIXED_POINT)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres, camera frame → (..., 2) pixels."""
        return camera.project(self.intrinsics, points)

    def ground_point(self, x: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
        """x and z in metres → (..., 3) points on the ground, 0.75 m below the plane of car centres."""
        point = np.stack(np.broadcast_arrays(x, self.plane.y(x, z), z), axis=-1)
        return point - self.plane.up * 0.75

    def background(self, road: float) -> None:
        """Draw the sky, then the ground by warping a texture; road: its heading in radians."""
        width, height = self.size
        top = np.array([self.rng.uniform(90, 190), self.rng.uniform(130, 200), self.rng.uniform(180, 235)])
        rows = np.linspace(0, 1, height)[:, None] ** 1.5
        sky = (top * (1 - rows) + self.haze * rows).astype(np.uint8)
        self.canvas = cv2.repeat(sky[:, None], 1, width)
        tile, metres = _ground_tile(int(self.rng.integers(6)))
        # A basis of the plane gives the homography from ground coordinates (sideways, ahead) to pixels.
        ahead = heading_matrix(self.plane.up, np.array([road]))[0]
        origin = self.ground_point(0.0, 0.0)
        basis = np.column_stack([-ahead[:, 0], ahead[:, 2], origin])
        scale = tile.shape[1] / (2 * metres[0])
        to_metres = np.array([[1 / scale, 0, -metres[0]], [0, 1 / scale, 0.5], [0, 0, 1]])
        homography = self.intrinsics @ basis @ to_metres
        edge = [int(value) for value in tile[:, :8].mean((0, 1))]
        border: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": edge}
        ground = cv2.warpPerspective(tile, homography, self.size, flags=cv2.INTER_LINEAR, **border)
        # A pixel's ray d meets the ground where up·d < 0; up·d is linear in the pixel.
        to_up = (np.linalg.inv(self.intrinsics).T @ self.plane.up).astype(np.float32)
        across, along = np.arange(width) * to_up[0], np.arange(height) * to_up[1] + to_up[2]
        steepest = np.maximum(-(across[0] + along), -(across[-1] + along))  # of each row, at one of its ends
        first = int(np.argmax(steepest > 0.004))  # the rows above it show only sky
        for strip in _strips(height, width, first):
            down = -(across + along[strip, None]).astype(np.float32)
            share = cv2.exp(-2.0 / (np.maximum(down, 1e-3) * np.float32(self.haze_length)))
            # All arrays have three channels, since NumPy is slow where it has to repeat one for each pixel.
            haze = np.broadcast_to(self.haze.astype(np.float32), (*down.shape, 3)).copy()
            hazy = (ground[strip] - haze) * cv2.merge([share] * 3) + haze
            mask = (down > 0.004).astype(np.uint8)
            self.canvas[strip] = cv2.copyTo(hazy.astype(np.uint8), mask, self.canvas[strip])

    def shadows(self, corners: list[np.ndarray]) -> None:
        """Darken the ground under the cars; corners: (4, 2) pixels of each footprint."""
        mask: np.ndarray = np.zeros(self.canvas.shape[:2], np.uint8)
        for points in corners:
            hull = cv2.convexHull(points.astype(np.float32)).astype(np.int32)
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA)
        shaded = np.flatnonzero(mask.any(axis=1))
        if not len(shaded):
            return
        blur = 8  # more than the reach of the blur and of smoothed edges
        band = slice(max(shaded[0] - blur, 0), shaded[-1] + 1 + blur)
        mask = cv2.GaussianBlur(mask[band], (5, 5), 0)
        mask = cv2.LUT(mask, (255 - 0.62 * np.arange(256)).astype(np.uint8))
        self.canvas[band] = cv2.multiply(self.canvas[band], cv2.merge([mask] * 3), scale=1 / 255)

    def building(self, x: float, z: float, wide: float, deep: float, high: float, colour: np.ndarray) -> None:
        """Draw the front and the road's side of a box with rows of windows; all lengths in metres."""
        inner, outer = x - np.sign(x) * wide / 2, x + np.sign(x) * wide / 2
        front, side = ((inner, outer), (z, z), 0.8), ((inner, inner), (z, z + deep), 1.0)
        for (xa, xb), (za, zb), shade in (front, side):
            base = self.ground_point(np.array([xa, xb]), np.array([za, zb]))
            up = self.plane.up * high
            quad = self.project(np.stack([base[0], base[1], base[1] + up, base[0] + up]))
            distance = (za + zb) / 2
            self.polygons(quad[None], self.hazed(np.array(colour) * shade, distance))
            dark = self.hazed(np.array(colour) * shade * 0.6, distance)
            floors, bays = max(1, int(high / 4)), max(1, int(np.hypot(xb - xa, zb - za) / 4))
            if bays * floors > 60 or np.ptp(quad[:, 0]) < 12:
                continue
            # Corners of all windows: s along the wall, t up it, as fractions.
            s = (np.arange(bays)[:, None] + [0.2, 0.75]) / bays
            t = (np.arange(floors)[:, None] + [0.3, 0.75]) / floors
            s, t = (grid.reshape(-1, 2) for grid in (np.tile(s, (floors, 1)), np.repeat(t, bays, axis=0)))
            s, t = s[:, [0, 1, 1, 0], None], t[:, [0, 0, 1, 1], None]
            self.polygons(self.project(base[0] + (base[1] - base[0]) * s + up * t), dark)

    def tree(self, x: float, z: float, high: float) -> None:
        """Draw a trunk and a crown of discs; position and height in metres."""
        base = self.ground_point(x, z)
        foot, top = self.project(np.stack([base, base + self.plane.up * high]))
        pixels = np.linalg.norm(top - foot) / high
        trunk = tuple(map(float, self.hazed(np.array([70, 55, 45]), z)))
        cv2.line(self.canvas, foot.astype(int), top.astype(int), trunk, max(1, int(0.25 * pixels)))
        for _ in range(6):
            centre = (top + self.rng.normal(0, 0.22 * high, 2) * pixels).astype(int)
            green = self.hazed(np.array([50, 85, 40]) * self.rng.uniform(0.7, 1.3), z)
            radius = int(self.rng.uniform(0.12, 0.28) * high * pixels)
            cv2.circle(self.canvas, centre, max(radius, 1), tuple(map(float, green)), -1, cv2.LINE_AA)

    def car(self, index: int, car: PlacedCar, paint: np.ndarray) -> int:
        """Draw a car of this paint (3,) RGB → the number of pixels of its outline within the photo."""
        mesh, distance = car.mesh, car.position[2]
        points = car.to_camera(mesh.vertices)
        if points[:, 2].min() < 0.5:
            return 0
        pixels = self.project(points)
        corners = points[mesh.faces]
        normal = normals(corners)
        area = np.linalg.norm(normal, axis=1)
        centre = corners.mean(1)
        visible = ((normal * centre).sum(1) < 0) & (area > 0)
        outline = cv2.convexHull(pixels.astype(np.float32))[:, 0]
        # Of the part of the photo that holds the outline; at full size, the whole takes longer than the car.
        left, top = np.clip(outline.min(0).astype(int) - 2, 0, self.size)
        right, bottom = np.clip(outline.max(0).astype(int) + 3, 0, self.size)
        stencil = np.zeros((bottom - top, right - left), np.uint8)
        if stencil.size:
            corner = np.array([left, top]) << FIXED_POINT
            cv2.fillConvexPoly(stencil, fixed_point(outline) - corner, 1, cv2.LINE_8, FIXED_POINT)

        normal = normal / np.maximum(area, 1e-9)[:, None]
        brightness = 0.5 + 0.5 * np.clip(normal @ self.light, 0, 1)
        colours = np.array([FIXED.get(material, (0, 0, 0)) for material in range(8)], float)
        colours[BODY] = paint
        lamps = np.isin(mesh.material, [HEADLAMP, TAILLAMP])
        brightness = np.where(lamps, np.maximum(brightness, 0.85), brightness)
        shade = colours[mesh.material] * brightness[:, None]
        sky = (mesh.material == GLASS)[:, None] * np.clip(normal @ self.plane.up, 0, 1)[:, None]
        shade = self.hazed(shade + sky * 90, np.full(len(shade), distance))
        # Small faces, as of the data set's meshes, leave gaps at a distance, so the outline is filled first.
        detailed = len(mesh.faces) > 500
        if detailed:
            self.polygons(outline[None], self.hazed(paint * 0.7, distance))
        visible &= area * (self.intrinsics[0, 0] / distance) ** 2 > (0.5 if detailed else 0.05)
        depth = np.linalg.norm(centre, axis=1) - mesh.bias
        order = np.flatnonzero(visible)[np.argsort(-depth[visible])]
        polygons = fixed_point(pixels[mesh.faces[order]])
        for polygon, colour in zip(polygons, shade[order].tolist(), strict=True):
            cv2.fillConvexPoly(self.canvas, polygon, colour, cv2.LINE_AA, FIXED_POINT)
        self.car_index[top:bottom, left:right][stencil > 0] = index
        return int(stencil.sum())

    def finish(self) -> tuple[np.ndarray, int]:
        """Apply exposure, blur and noise → the photo (H, W, 3) uint8 RGB and its JPEG quality."""
        exposed = np.clip(np.arange(256) * self.rng.uniform(0.65, 1.2), 0, 255)
        curve = 255 * (exposed / 255) ** self.rng.uniform(0.8, 1.25)
        photo = cv2.LUT(self.canvas, curve.astype(np.uint8))
        if self.rng.random() < 0.3:
            photo = cv2.GaussianBlur(photo, (3, 3), 0)
        noise = self.rng.standard_normal(photo.shape[:2], np.float32)
        strength = np.float32(self.rng.uniform(1, 6))
        for strip in _strips(*noise.shape):
            grains = cv2.merge([(noise[strip] * strength).astype(np.int16)] * 3)
            photo[strip] = cv2.add(photo[strip], grains, dtype=cv2.CV_8U)
        return photo, int(self.rng.integers(72, 96))


def render(
    rng: np.random.Generator,
    cars: list[PlacedCar],
    plane: Plane,
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> Rendering:
    """Paint the scene, the farthest objects first. intrinsics: 3×3; size: width, height in pixels."""
    painter = Painter(rng, intrinsics, size, plane)
    road = rng.normal(0, 0.08)
    painter.background(road)
    painter.shadows(_footprints(painter, cars))
    drawn = np.zeros(len(cars))  # pixels, also those that nearer objects hide
    for _, object_type, item in sorted(_objects(rng, cars), key=lambda entry: -entry[0]):
        if object_type == "building":
            colour = rng.uniform(90, 200) + rng.normal(0, 12, 3)
            x, z = item
            painter.building(x, z, rng.uniform(10, 25), rng.uniform(10, 30), rng.uniform(8, 45), colour)
        elif object_type == "tree":
            x, z = item
            painter.tree(x, z, rng.uniform(4, 9))
        else:
            paint = np.clip(PAINT[rng.integers(len(PAINT))] + rng.normal(0, 15, 3), 5, 250)
            drawn[item] = painter.car(item, cars[item], paint)
    visible = np.bincount(painter.car_index[painter.car_index >= 0], minlength=len(cars))[: len(cars)]
    outline_area = np.array([_outline_area(painter, car) for car in cars])
    share = visible / np.maximum(np.maximum(outline_area, drawn), 1)
    photo, quality = painter.finish()
    return Rendering(photo, quality, painter.car_index, share)


def _footprints(painter: Painter, cars: list[PlacedCar]) -> list[np.ndarray]:
    """(4, 2) pixels of the ground under each car that is in front of the camera."""
    footprints = []
    for car in cars:
        sx, sy, sz = car.mesh.size / 2
        corners = np.array([[a * sx, -sy, b * sz] for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))])
        points = car.to_camera(corners)
        if points[:, 2].min() > 0.5:
            footprints.append(painter.project(points))
    return footprints


def _objects(rng: np.random.Generator, cars: list[PlacedCar]) -> list[tuple]:
    """(distance, type, item) of the cars, and of random buildings and trees beside the road.

    item: the index of a car, or x and z in metres.
    """
    scenery = []
    for _ in range(int(rng.integers(4, 14))):
        side, z = rng.choice([-1, 1]), rng.uniform(25, 160)
        scenery.append(("building", side * rng.uniform(34, 60), z))
    for _ in range(int(rng.integers(3, 14))):
        scenery.append(("tree", rng.choice([-1, 1]) * rng.uniform(18, 40), rng.uniform(15, 120)))
    objects = [(np.linalg.norm(car.position), "car", index) for index, car in enumerate(cars)]
    return objects + [(np.hypot(x, z), object_type, (x, z)) for object_type, x, z in scenery]


def _outline_area(painter: Painter, car: PlacedCar) -> float:
    """Pixels of a car's outline, also those outside the photo."""
    points = car.to_camera(car.mesh.vertices)
    if points[:, 2].min() < 0.5:
        return np.inf
    return cv2.contourArea(cv2.convexHull(painter.project(points).astype(np.float32)))


def _strips(height: int, width: int, first: int = 0) -> Iterator[slice]:
    """The rows from `first`, in parts whose intermediate arrays stay in the cache of a core. Those of a whole
    photo at full size would be written to memory and read back by each operation."""
    rows = max(65536 // width, 1)
    for start in range(first, height, rows):
        yield slice(start, min(start + rows, height))


@functools.cache
def _ground_tile(seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    """A road from above (asphalt, lane lines, kerbs), and its half width and length in metres."""
    rng = np.random.default_rng(seed)
    half, length, scale = 40.0, 160.0, 8
    shape = (int(length * scale), int(2 * half * scale))
    tile = np.full((*shape, 3), rng.uniform(85, 125), np.float32)
    for grain, strength in ((4, 7), (32, 9), (160, 9)):
        noise = rng.standard_normal((shape[0] // grain + 2, shape[1] // grain + 2)).astype(np.float32)
        tile += cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_LINEAR)[..., None] * strength
    kerb = rng.uniform(16, 26)
    beyond = np.abs(np.arange(shape[1]) / scale - half) > kerb
    tile[:, beyond] = tile[:, beyond] * 0.5 + rng.uniform([60, 70, 45], [120, 125, 100]) * 0.5
    for lane in np.arange(-kerb, kerb + 0.1, 3.4):
        column = int((lane + half) * scale)
        solid = abs(abs(lane) - kerb) < 0.2 or rng.random() < 0.2
        for start in range(0, shape[0], 10 * scale):
            tile[start : start + (10 if solid else 5) * scale, column : column + 2] = 215
    return np.clip(tile, 0, 255).astype(np.uint8), (half, length)
