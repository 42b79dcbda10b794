"""Cars drawn on an image, as boxes, and on axes seen from above."""

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection

from carpose.core import cars
from carpose.geometry import camera, meshes, rotation

EDGES = [(a, b) for a in range(8) for b in range(a) if a ^ b in (1, 2, 4)]
ARROW = 3.5  # metres from the centre to the tip of the heading
FARTHEST = 120  # metres; what is farther would squeeze the view from above


def draw_cars(
    photo: np.ndarray,
    intrinsics: np.ndarray,
    table: pd.DataFrame,
    colour: str,
    thickness: int = 1,
) -> np.ndarray:
    """Draw each car as a box of a car's size, its centre and an arrow towards its front.

    photo: (H, W, 3) uint8 RGB; intrinsics: 3×3 of this very picture, crop and resize included; colour: as
    matplotlib names it; thickness in pixels → a new picture. Cars behind the camera are left out.
    """
    picture = photo.copy()
    rgb = tuple(round(255 * channel) for channel in matplotlib.colors.to_rgb(colour))
    pen = {"thickness": thickness, "lineType": cv2.LINE_AA, "shift": meshes.FIXED_POINT}
    table = table[table["z"] > meshes.NEAR].sort_values("z", ascending=False)  # near cars on top
    positions, turns = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    for position, turn in zip(positions, turns, strict=True):
        lines = _segments(intrinsics, meshes.CAR_CORNERS[EDGES] @ turn.T + position)
        cv2.polylines(picture, [meshes.fixed_point(line) for line in lines], False, rgb, **pen)
        heading = np.array([[position, position + ARROW * turn[:, 2]]])
        for ends in _segments(intrinsics, heading):
            barb = min(0.3, 6 * thickness / max(np.hypot(*np.diff(ends, axis=0)[0]), 1))
            tail, tip = meshes.fixed_point(ends)
            cv2.arrowedLine(picture, tail, tip, rgb, thickness, cv2.LINE_AA, meshes.FIXED_POINT, barb)
        centre = meshes.fixed_point(camera.project(intrinsics, position))
        radius = (thickness + 1) << meshes.FIXED_POINT
        cv2.circle(picture, centre, radius, rgb, **pen | {"thickness": cv2.FILLED})
    return picture


def _segments(intrinsics, ends):
    """(S, 2, 3) segments in metres → (≤ S, 2, 2) pixels of what lies before the camera."""
    depth = ends[..., 2]
    visible = (depth > meshes.NEAR).any(axis=1)
    ends, depth = ends[visible], depth[visible]
    step = np.diff(depth, axis=1)
    share = (meshes.NEAR - depth) / np.where(step == 0, 1, step)  # from each end to the near plane
    crossing = ends[:, :1] + share[:, :1, None] * (ends[:, 1:] - ends[:, :1])
    return camera.project(intrinsics, np.where(depth[..., None] > meshes.NEAR, ends, crossing))


def draw_from_above(axes, layers: list[tuple[pd.DataFrame, str]], intrinsics: np.ndarray, width: int) -> None:
    """Cars as rectangles on the x–z plane, a line from each centre to its front, and the field of view.

    layers: tables of cars and their colours; intrinsics: 3×3 of a picture `width` pixels wide.
    """
    depths = np.concatenate([table["z"].to_numpy(float) for table, _ in layers])
    farthest = max(25, 1.1 * depths[depths < FARTHEST].max(initial=0))
    edges = camera.backproject(intrinsics, np.array([[-0.5, 0.0], [width - 0.5, 0.0]]), np.full(2, farthest))
    for edge in edges:
        axes.plot([0, edge[0]], [0, farthest], color="0.6", linewidth=0.8, linestyle="--")
    floor = meshes.CAR_CORNERS[[0, 1, 5, 4]]  # left and right, back and front, at one height
    for table, colour in layers:
        position, turn = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
        corners = (np.einsum("nij,kj->nki", turn, floor) + position[:, None])[..., [0, 2]]
        fronts = np.stack([position, position + ARROW * turn[:, :, 2]], axis=1)[..., [0, 2]]
        style = {"edgecolors": colour, "facecolors": "none", "linewidths": 1.2}
        axes.add_collection(PolyCollection(corners, **style))
        axes.add_collection(PolyCollection(fronts, closed=False, **style))
    axes.set(aspect="equal", ylim=(0, farthest), xlim=sorted(edges[:, 0] * 1.02))
    axes.set(xlabel="x [m]", ylabel="z [m]")
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
