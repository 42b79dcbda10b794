"""Cars to render: parametric ones of several body types, or the data set's own meshes.

A mesh is in the car's frame of carpose.geometry.rotation: x sideways, y up, z to the front, metres, origin in
the centre of the body. Its faces have a material, so that front and rear look different.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carpose.core.files import write_text

Corners = Sequence | np.ndarray  # (P, 3) metres, of a polygon
BODY, GLASS, TYRE, RIM, HEADLAMP, TAILLAMP, DARK, PLATE = range(8)


@dataclass(frozen=True)
class BodyType:
    """Sizes in metres; cabin, roof: where each starts and ends along the car, as fractions of the length from
    the centre."""

    length: float
    width: float
    height: float
    cabin: tuple[float, float]
    roof: tuple[float, float]


TYPES = {
    "sedan": BodyType(4.7, 1.80, 1.45, (-0.34, 0.22), (-0.20, 0.05)),
    "sedan-small": BodyType(4.3, 1.70, 1.48, (-0.36, 0.22), (-0.22, 0.05)),
    "hatchback": BodyType(4.1, 1.75, 1.50, (-0.49, 0.22), (-0.38, 0.04)),
    "hatchback-small": BodyType(3.7, 1.65, 1.52, (-0.49, 0.25), (-0.40, 0.08)),
    "suv": BodyType(4.6, 1.88, 1.70, (-0.49, 0.20), (-0.44, 0.05)),
    "suv-large": BodyType(4.9, 1.95, 1.80, (-0.49, 0.20), (-0.45, 0.06)),
    "van": BodyType(4.9, 1.90, 1.95, (-0.49, 0.42), (-0.47, 0.26)),
}
FLOOR = 0.22  # metres above the ground


@dataclass(frozen=True)
class Mesh:
    """vertices: (V, 3) metres; faces: (F, P) vertex indices, padded with the last one; material, bias: (F,).

    The bias (metres towards the camera) makes the painter draw lamps, windows and wheels after the body.
    """

    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    bias: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Extent along x, y and z in metres."""
        return np.ptp(self.vertices, axis=0)


class _Builder:
    def __init__(self) -> None:
        self.vertices: list[tuple[float, ...]] = []
        self.faces: list[list[int]] = []
        self.material: list[int] = []
        self.bias: list[float] = []

    def face(self, corners: Corners, material: int, bias: float = 0.0) -> None:
        start = len(self.vertices)
        self.vertices += [tuple(corner) for corner in corners]
        self.faces.append(list(range(start, start + len(corners))))
        self.material.append(material)
        self.bias.append(bias)

    def both_sides(self, corners: Corners, material: int, bias: float = 0.0) -> None:
        """A face and its mirror image; `corners` are those at +x."""
        corners = np.asarray(corners, float)
        self.face(corners, material, bias)
        self.face((corners * [-1, 1, 1])[::-1], material, bias)

    def inset(self, corners: Corners, shrink: float, material: int, bias: float, sides: bool = False) -> None:
        """A copy of a face, shrunk towards its centre; sides: and its mirror image."""
        corners = np.asarray(corners, float)
        inner = corners.mean(0) + (corners - corners.mean(0)) * shrink
        (self.both_sides if sides else self.face)(inner, material, bias)

    def mesh(self) -> Mesh:
        longest = max(map(len, self.faces))
        padded = np.array([face + [face[-1]] * (longest - len(face)) for face in self.faces])
        return Mesh(np.array(self.vertices), padded, np.array(self.material), np.array(self.bias))


def parametric(name: str) -> Mesh:
    """A car of TYPES with about a hundred polygons."""
    body, builder = TYPES[name], _Builder()
    belt = 0.58 * body.height
    hood = belt * (0.98 if name == "van" else 0.9)
    # Cross-sections along the car: z, height of the top, half width.
    rear = [(-0.50, belt * 0.92, 0.44), (-0.46, belt, 0.49)]
    front = [(body.cabin[1] - 0.02, belt, 0.50), (0.44, hood, 0.49), (0.50, hood * 0.78, 0.42)]
    z, top, half = np.array(rear + front).T * [[body.length], [1], [body.width]]
    _add_body(builder, z, top, half)
    _add_cabin(builder, body, belt)
    for lamp, sign in ((TAILLAMP, -1), (HEADLAMP, 1)):
        _add_end(builder, z, top, half, lamp, sign)
    _add_wheels(builder, body)

    mesh = builder.mesh()
    centred = mesh.vertices - [0, body.height / 2, 0]
    return Mesh(centred, _outward(centred, mesh.faces), mesh.material, mesh.bias)


def _add_body(builder: _Builder, z: np.ndarray, top: np.ndarray, half: np.ndarray) -> None:
    """Sides, dark sills and top faces between cross-sections; z, top, half: as in `parametric`, metres."""
    for i in range(len(z) - 1):
        (h0, h1), (t0, t1), (z0, z1) = half[i : i + 2], top[i : i + 2], z[i : i + 2]
        builder.both_sides([(h0, FLOOR, z0), (h0, t0, z0), (h1, t1, z1), (h1, FLOOR, z1)], BODY)
        low = [(h0, FLOOR, z0), (h0, 0.36, z0), (h1, 0.36, z1), (h1, FLOOR, z1)]
        builder.both_sides(np.array(low) + [0.005, 0, 0], DARK, 0.1)
        builder.face([(-h0, t0, z0), (-h1, t1, z1), (h1, t1, z1), (h0, t0, z0)], BODY)


def _add_cabin(builder: _Builder, body: BodyType, belt: float) -> None:
    """A cabin with windows on all sides, from the belt line (its height in metres) to a narrower roof."""
    height = body.height
    (b0, b1), (r0, r1) = np.array(body.cabin) * body.length, np.array(body.roof) * body.length
    wide, narrow = 0.47 * body.width, 0.38 * body.width
    screen = [(-wide, belt, b1), (wide, belt, b1), (narrow, height, r1), (-narrow, height, r1)]
    window = [(wide, belt, b0), (-wide, belt, b0), (-narrow, height, r0), (narrow, height, r0)]
    side = [(wide, belt, b1), (wide, belt, b0), (narrow, height, r0), (narrow, height, r1)]
    roof = [(-narrow, height, r0), (-narrow, height, r1), (narrow, height, r1), (narrow, height, r0)]
    builder.face(screen, BODY)
    builder.face(window, BODY)
    builder.both_sides(side, BODY)
    builder.face(roof, BODY)
    builder.inset(screen, 0.88, GLASS, 0.3)
    builder.inset(window, 0.78, GLASS, 0.3)
    middle = np.array([(side[0][k] + side[1][k]) / 2 for k in range(3)])
    above = np.array([(side[2][k] + side[3][k]) / 2 for k in range(3)])
    builder.inset([side[0], middle, above, side[3]], 0.80, GLASS, 0.3, sides=True)
    builder.inset([middle, side[1], side[2], above], 0.80, GLASS, 0.3, sides=True)


def _add_end(
    builder: _Builder, z: np.ndarray, top: np.ndarray, half: np.ndarray, lamp: int, sign: int
) -> None:
    """The rear (sign −1) or the front (1): a face with lamps, grille, plate and bumper."""
    i = -1 if sign > 0 else 0
    h, t, end_z = half[i], top[i], z[i]
    face = [(-h, FLOOR, end_z), (h, FLOOR, end_z), (h, t, end_z), (-h, t, end_z)]
    builder.face(face if sign > 0 else face[::-1], BODY)
    end_z += 0.01 * sign

    def panel(
        x0: float, x1: float, y0: float, y1: float, material: int, bias: float, mirrored: bool = True
    ) -> None:
        corners = [(x0, y0, end_z), (x1, y0, end_z), (x1, y1, end_z), (x0, y1, end_z)]
        for mirror in (1, -1) if mirrored else (1,):
            order = corners if sign * mirror > 0 else corners[::-1]
            builder.face(np.array(order) * [mirror, 1, 1], material, bias)

    panel(0.55 * h, 0.97 * h, t - 0.22, t - 0.04, lamp, 0.6)
    panel(-0.5 * h, 0.5 * h, 0.42, 0.62, DARK if sign > 0 else BODY, 0.4, mirrored=False)
    panel(-0.25, 0.25, 0.44, 0.56, PLATE, 0.7, mirrored=False)
    panel(-0.95 * h, 0.95 * h, FLOOR, 0.34, DARK, 0.4, mirrored=False)
    # Lamps extend around the corner, so that they are visible from the side.
    j = i - 1 if sign > 0 else 1
    end, side = (h, z[i]), (h + 0.6 * (half[j] - h), z[i] + 0.6 * (z[j] - z[i]))
    outline = [(end, t - 0.2), (end, t - 0.05), (side, t - 0.05), (side, t - 0.2)]
    corner = np.array([(x, y, corner_z) for (x, corner_z), y in outline]) + [0.015, 0, 0]
    builder.both_sides(corner if sign < 0 else corner[::-1], lamp, 0.6)


def _add_wheels(builder: _Builder, body: BodyType) -> None:
    for axle_z in (-0.30 * body.length, 0.31 * body.length):
        for radius, material, offset, bias in ((0.33, TYRE, 0.02, 0.35), (0.20, RIM, 0.03, 0.45)):
            angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            y, z = 0.33 + radius * np.cos(angle), axle_z + radius * np.sin(angle)
            ring = np.column_stack([np.full(10, body.width / 2 + offset), y, z])
            builder.both_sides(ring[::-1], material, bias)


def normals(corners: np.ndarray) -> np.ndarray:
    """(F, P, 3) corners of polygons, padded or not → (F, 3) normals of twice the area's length (Newell)."""
    return np.cross(corners, np.roll(corners, -1, axis=1)).sum(axis=1)


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces, with corners reversed where needed so that normals point away from the car's centre."""
    corners = vertices[faces]
    normal = normals(corners)
    inward = (normal * (corners.mean(1) - [0, -0.1, 0])).sum(1) < 0
    return np.where(inward[:, None], faces[:, ::-1], faces)


def painted(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh of `car_models_json` with materials, guessed from each face's position on the car.

    vertices: (V, 3) metres; faces: (F, 3) indices from 0.
    """
    corners = vertices[faces]
    low, size = vertices.min(0), np.ptp(vertices, axis=0)
    x, y, z = ((corners.mean(1) - low) / size).T
    normal = normals(corners)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    material = np.full(len(faces), BODY)
    material[(y > 0.62) & (y < 0.93) & (np.abs(normal[:, 1]) < 0.85)] = GLASS
    wheel = (y < 0.38) & (np.abs(x - 0.5) > 0.4) & (np.abs(np.abs(z - 0.5) - 0.3) < 0.08)
    material[(y < 0.16) | wheel] = TYRE
    lamp = (y > 0.4) & (y < 0.6) & (np.abs(x - 0.5) > 0.24)
    material[lamp & (z > 0.93)] = HEADLAMP
    material[lamp & (z < 0.05)] = TAILLAMP
    return Mesh(vertices, faces, material, np.where(material == BODY, 0.0, 0.05))


def write_json(path: Path, mesh: Mesh, car_type: str) -> None:
    """Write a mesh in the competition's format: y down, triangles, indices from 1."""
    fan = [mesh.faces[:, [0, k, k + 1]] for k in range(1, mesh.faces.shape[1] - 1)]
    triangles = np.concatenate(fan)
    distinct = (triangles[:, 0] != triangles[:, 1]) & (triangles[:, 1] != triangles[:, 2])
    vertices, faces = (mesh.vertices * [1, -1, 1]).round(5), triangles[distinct] + 1
    content = {"car_type": car_type, "vertices": vertices.tolist(), "faces": faces.tolist()}
    write_text(path, json.dumps(content))
