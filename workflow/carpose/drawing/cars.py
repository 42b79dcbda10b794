"""Cars drawn as boxes on an image, and from above on axes."""

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from carpose.core import cars
from carpose.geometry import camera, meshes, rotation

EDGES = [(a, b) for a in range(8) for b in range(a) if a ^ b in (1, 2, 4)]  # of a box, as pairs of corners
ARROW = 3.5  # metres from the centre to the tip of the heading
FARTHEST = 120  # metres of depth that the axes show at most, so that near cars are not drawn too small


def draw_cars(
    image: np.ndarray,
    intrinsics: np.ndarray,
    table: pd.DataFrame,
    colour: str,
    thickness: int = 1,
) -> np.ndarray:
    """Draw each car as a box of a typical car's size, its centre and an arrow towards its front.

    image: (H, W, 3) uint8 RGB; intrinsics: 3×3 of this image, crop and resize included; colour: as matplotlib
    names it; thickness: of lines, in pixels. Returns a new image. Cars behind the camera are left out.
    """
    image = image.copy()
    rgb = tuple(round(255 * channel) for channel in matplotlib.colors.to_rgb(colour))
    pen = {"thickness": thickness, "lineType": cv2.LINE_AA, "shift": meshes.FIXED_POINT}
    table = table[table["z"] > meshes.NEAR].sort_values("z", ascending=False)  # near cars on top
    positions, rotations = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    for position, matrix in zip(positions, rotations, strict=True):
        lines = _project_segments(intrinsics, meshes.CAR_CORNERS[EDGES] @ matrix.T + position)
        cv2.polylines(image, [meshes.fixed_point(line) for line in lines], False, rgb, **pen)
        heading = np.array([[position, position + ARROW * matrix[:, 2]]])
        for ends in _project_segments(intrinsics, heading):
            tip_length = min(0.3, 6 * thickness / max(np.hypot(*np.diff(ends, axis=0)[0]), 1))
            tail, tip = meshes.fixed_point(ends)
            cv2.arrowedLine(image, tail, tip, rgb, thickness, cv2.LINE_AA, meshes.FIXED_POINT, tip_length)
        centre = meshes.fixed_point(camera.project(intrinsics, position)).tolist()
        radius = (thickness + 1) << meshes.FIXED_POINT
        cv2.circle(image, centre, radius, rgb, **pen | {"thickness": cv2.FILLED})
    return image


def _project_segments(intrinsics: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(S, 2, 3) ends of segments in metres → (≤ S, 2, 2) pixels, each segment clipped at the near plane."""
    depth = ends[..., 2]
    visible = (depth > meshes.NEAR).any(axis=1)
    ends, depth = ends[visible], depth[visible]
    step = np.diff(depth, axis=1)
    fraction = (meshes.NEAR - depth) / np.where(step == 0, 1, step)  # of the segment, up to the near plane
    crossing = ends[:, :1] + fraction[:, :1, None] * (ends[:, 1:] - ends[:, :1])
    return camera.project(intrinsics, np.where(depth[..., None] > meshes.NEAR, ends, crossing))


def seen_from_above(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Cars on the x–z plane in metres: (N, 4, 2) corners in order, (N, 2, 2) lines from centre to front."""
    floor = meshes.CAR_CORNERS[[0, 1, 5, 4]]  # the four corners of the box at one height
    position, matrix = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    corners = np.einsum("nij,kj->nki", matrix, floor) + position[:, None]
    fronts = np.stack([position, position + ARROW * matrix[:, :, 2]], axis=1)
    return corners[..., [0, 2]], fronts[..., [0, 2]]


def farthest_shown(layers: list[tuple[pd.DataFrame, str]]) -> float:
    """Metres of depth that a view from above shows, so that all cars up to FARTHEST are on it."""
    depths = np.concatenate([table["z"].to_numpy(float) for table, _ in layers])
    return float(max(25, 1.1 * depths[depths < FARTHEST].max(initial=0)))


def draw_from_above(
    axes: Axes, layers: list[tuple[pd.DataFrame, str]], intrinsics: np.ndarray, width: int
) -> None:
    """Cars as rectangles on the x–z plane in metres, with a line from each centre to its front; and the field
    of view.

    layers: tables of cars and their colours; intrinsics: 3×3 of an image `width` pixels wide.
    """
    farthest = farthest_shown(layers)
    edges = camera.backproject(intrinsics, np.array([[-0.5, 0.0], [width - 0.5, 0.0]]), np.full(2, farthest))
    for edge in edges:
        axes.plot([0, edge[0]], [0, farthest], color="0.6", linewidth=0.8, linestyle="--")
    for table, colour in layers:
        corners, fronts = seen_from_above(table)
        style = {"edgecolors": colour, "facecolors": "none", "linewidths": 1.2}
        axes.add_collection(PolyCollection(corners, **style))
        axes.add_collection(PolyCollection(fronts, closed=False, **style))
    axes.set(aspect="equal", ylim=(0, farthest), xlim=sorted(edges[:, 0] * 1.02))
    axes.set(xlabel="x [m]", ylabel="z [m]")
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
