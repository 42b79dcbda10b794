"""Car models as triangle meshes, and the outline of a car in a picture.

In: the data set's `car_models_json/<name>.json`, cars' poses, intrinsics. Out: polygons in pixels.
"""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from carpose.core.errors import UserError

from . import camera

NEAR = 0.1  # metres before the camera; what is closer is not drawn
FINE = 4  # an outline is traced in squares of 1/FINE pixel
MARGIN = 50  # pixels around the picture within which outlines are traced
FIXED_POINT = 4  # fractional bits of the coordinates given to OpenCV
# A car whose model is not known, a box: width, height, length in metres, and its corners in the car's frame.
CAR_SIZE = (1.9, 1.5, 4.4)
CAR_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * CAR_SIZE / 2


class Mesh(NamedTuple):
    """A car in its own frame: metres, x to the side, y up, z to the front.

    vertices: (N, 3) float; faces: (M, 3) int, rows of `vertices` counted from 0.
    """

    vertices: np.ndarray
    faces: np.ndarray


def load(path: str | Path) -> Mesh:
    """Read a car model; its file has y down and counts from 1.

    With the y turned, R·vertex + t of carpose.geometry.rotation is the point in the camera frame.
    Raises UserError where the file cannot be read or is not a triangle mesh.
    """
    try:
        content = json.loads(Path(path).read_text())
        vertices = np.array(content["vertices"], float) * [1, -1, 1]
        faces = np.array(content["faces"])
    except OSError as error:
        raise UserError(f"{path}: the car model cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a car model with vertices and faces ({error})") from error
    right = faces.ndim == 2 and faces.shape[1] == 3 and np.issubdtype(faces.dtype, np.integer)
    if not right or not len(faces) or faces.min() < 1 or faces.max() > len(vertices):
        raise UserError(f"{path}: faces must be triples of whole numbers from 1 to {len(vertices)}")
    return Mesh(vertices, faces - 1)


def load_types(folder: str | Path, names: str | Path, wanted: set[int]) -> dict[int, Mesh]:
    """The meshes of some model types: {model_type: Mesh}.

    folder: with <name>.json; names: CSV with columns model_type and name; wanted: model types.
    Raises UserError where a type has no name or no mesh.
    """
    name_of = read_names(names)
    unknown = wanted - set(name_of.index)
    if unknown:
        raise UserError(f"{names}: model type {min(unknown)} is missing; add its row")
    return {model_type: load(Path(folder) / f"{name_of[model_type]}.json") for model_type in sorted(wanted)}


def read_names(path: str | Path) -> pd.Series:
    """CSV with columns model_type and name → the names by type. Raises UserError where it is none."""
    try:
        return pd.read_csv(path).set_index("model_type")["name"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as the table model_type,name ({error})") from error


def outline(
    intrinsics: np.ndarray, rotation: np.ndarray, position: np.ndarray, mesh: Mesh, size: tuple[int, int]
) -> list[np.ndarray]:
    """The silhouette of a car: the union of its projected faces, traced.

    intrinsics: 3×3 of this picture; rotation: 3×3; position: (3,) metres, camera frame; size: width and
    height of the picture → polygons (P, 2) in pixels, cut at MARGIN pixels outside the picture. Faces
    nearer than NEAR are left out; nothing visible gives an empty list.
    """
    points = mesh.vertices @ rotation.T + position
    faces = mesh.faces[(points[mesh.faces, 2] > NEAR).all(axis=1)]
    if not len(faces):
        return []
    used = np.unique(faces)
    pixels = np.zeros((len(points), 2))
    pixels[used] = camera.project(intrinsics, points[used])
    # The canvas is a FINE times finer picture of the part of the frame that the car covers.
    low = np.floor(np.maximum(pixels[used].min(axis=0) - 1, -MARGIN))
    high = np.ceil(np.minimum(pixels[used].max(axis=0) + 1, np.array(size) + MARGIN))
    if (high <= low).any():
        return []
    width, height = ((high - low) * FINE).astype(int)
    canvas = np.zeros((height, width), np.uint8)
    corners = (pixels[faces] - low) * FINE
    for triangle in fixed_point(corners):
        cv2.fillConvexPoly(canvas, triangle, 1, shift=FIXED_POINT)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0] / FINE + low for contour in contours]


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixels as OpenCV's drawing wants them: int32 with FIXED_POINT fractional bits, far ones pulled in."""
    return np.round(np.clip(pixels, -1e6, 1e6) * 2**FIXED_POINT).astype(np.int32)
