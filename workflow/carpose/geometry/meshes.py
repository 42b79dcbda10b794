"""Car models as triangle meshes, from `car_models_json/<name>.json`, and constants for drawing cars."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from carpose.core.errors import UserError
from carpose.core.keyed import load_json

NEAR = 0.1  # metres; what is nearer to the camera is not drawn
FIXED_POINT = 4  # fractional bits of the coordinates given to OpenCV
# The box of a car of unknown model: width, height, length in metres, and its corners in the car's frame.
CAR_SIZE = (1.9, 1.5, 4.4)
CAR_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * CAR_SIZE / 2


class Mesh(NamedTuple):
    """A car in its own frame: metres, x to the side, y up, z to the front.

    vertices: (N, 3) float; faces: (M, 3) int, indices of vertices from 0.
    """

    vertices: np.ndarray
    faces: np.ndarray


def load(path: str | Path) -> Mesh:
    """Read a car model. In the file y points down and indices start at 1.

    y is negated, so that R·vertex + t is the point in the camera frame, with R of carpose.geometry.rotation.
    Raises UserError where the file cannot be read or is not a triangle mesh.
    """
    try:
        content = load_json(Path(path).read_text(encoding="utf-8-sig"))
        vertices = np.array(content["vertices"], float) * [1, -1, 1]
        faces = np.array(content["faces"])
    except OSError as error:
        raise UserError(f"{path}: the car model cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a car model with vertices and faces ({error})") from error
    triples = faces.ndim == 2 and faces.shape[1] == 3 and np.issubdtype(faces.dtype, np.integer)
    if not triples or not len(faces) or faces.min() < 1 or faces.max() > len(vertices):
        raise UserError(f"{path}: faces must be triples of integers from 1 to {len(vertices)}")
    return Mesh(vertices, faces - 1)


def read_names(path: str | Path) -> pd.Series:
    """CSV with columns model_type and name → names indexed by model_type. Raises UserError where the file
    cannot be read or lacks a column."""
    try:
        return pd.read_csv(path).set_index("model_type")["name"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as the table model_type,name ({error})") from error


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixels for OpenCV's drawing: int32 with FIXED_POINT fractional bits, clipped to ±1e6 pixels."""
    return np.round(np.clip(pixels, -1e6, 1e6) * 2**FIXED_POINT).astype(np.int32)
