"""Cars drawn on an image as the outlines of their meshes."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.geometry import camera, meshes, rotation

from .cars import draw_cars

TABLE = "car_model_ids.csv"  # model_type,name


class CarModels:
    """Meshes of cars: one file for all, or a folder with a mesh for each model_type."""

    def __init__(self, path: Path, table: Path | None = None):
        """path: a mesh, or a folder of them; table: CSV model_type,name; default: in the folder or beside it.

        Raises UserError where there is none, or the mesh cannot be read.
        """
        self.single = None if path.is_dir() else meshes.load(path)
        self.files: dict[int, Path] = {}
        self.loaded: dict[int, meshes.Mesh] = {}
        if path.is_dir():
            places = [table] if table else [path / TABLE, path.parent / TABLE]
            table = next((place for place in places if place.is_file()), None)
            if table is None:
                raise UserError(f"{places[0]}: the table model_type,name of the car models is missing")
            self.files = {number: path / f"{name}.json" for number, name in meshes.read_names(table).items()}

    def mesh(self, model_type: float | None) -> meshes.Mesh | None:
        """Of one car; None where its model is not known or has no mesh."""
        if self.single is not None or model_type not in self.files:
            return self.single
        if model_type not in self.loaded:
            self.loaded[model_type] = meshes.load(self.files[model_type])
        return self.loaded[model_type]


def draw_outlines(
    image: np.ndarray,
    intrinsics: np.ndarray,
    table: pd.DataFrame,
    models: CarModels,
    colour: str,
    thickness: int = 1,
) -> np.ndarray:
    """Draw each car as the outline of its mesh, or as `draw_cars` does where it has none; as `draw_cars`."""
    types = table["model_type"] if "model_type" in table else pd.Series(np.nan, table.index)
    found = [models.mesh(None if np.isnan(number) else number) for number in types]
    has_mesh = np.array([mesh is not None for mesh in found], bool)
    image = draw_cars(image, intrinsics, table[~has_mesh], colour, thickness)
    rgb = tuple(round(255 * channel) for channel in matplotlib.colors.to_rgb(colour))
    known = [mesh for mesh in found if mesh is not None]
    positions = table.loc[has_mesh, cars.POSITION].to_numpy(float)
    turns = rotation.matrix(table.loc[has_mesh, cars.ANGLES])
    for number in np.argsort(-positions[:, 2]):  # near cars on top
        mask = silhouette(intrinsics, turns[number], positions[number], known[number], image.shape[:2])
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, rgb, thickness, cv2.LINE_AA)
    return image


def silhouette(
    intrinsics: np.ndarray, turn: np.ndarray, position: np.ndarray, mesh: meshes.Mesh, size: tuple[int, int]
) -> np.ndarray:
    """(height, width) uint8: 1 where the car covers the image. turn: 3×3; position: metres, camera frame;
    size: height and width. Faces that reach behind the camera are left out."""
    points = mesh.vertices @ turn.T + position
    faces = mesh.faces[(points[mesh.faces, 2] > meshes.NEAR).all(axis=1)]
    mask = np.zeros(size, np.uint8)
    for triangle in meshes.fixed_point(camera.project(intrinsics, points[faces])):
        cv2.fillConvexPoly(mask, triangle, 1, shift=meshes.FIXED_POINT)
    return mask
