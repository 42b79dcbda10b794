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

    def mesh(self, model_type: int | None) -> meshes.Mesh | None:
        """Of one car; None where its model is not known or has no mesh."""
        if self.single is not None or model_type is None or model_type not in self.files:
            return self.single
        if model_type not in self.loaded:
            self.loaded[model_type] = meshes.load(self.files[model_type])
        return self.loaded[model_type]


def draw_outlines(
    image: np.ndarray,
    intrinsics: np.ndarray,
    table: pd.DataFrame,
    models: CarModels | None,
    colour: str,
    thickness: int = 1,
) -> np.ndarray:
    """Draw the outline of the visible part of each car's mesh; a car without a mesh as `draw_cars` does.

    Arguments and result as of `draw_cars`; models: None if no car has a mesh. A car hides what is behind it.
    """
    if models is None:
        return draw_cars(image, intrinsics, table, colour, thickness)
    types = table["model_type"] if "model_type" in table else pd.Series(np.nan, table.index)
    all_meshes = [models.mesh(None if np.isnan(number) else int(number)) for number in types]
    has_mesh = np.array([mesh is not None for mesh in all_meshes], bool)
    image = draw_cars(image, intrinsics, table[~has_mesh], colour, thickness)
    rgb = tuple(round(255 * channel) for channel in matplotlib.colors.to_rgb(colour))
    car_meshes = [mesh for mesh in all_meshes if mesh is not None]
    owner = visible_cars(table[has_mesh], car_meshes, intrinsics, image.shape[:2])
    for car in range(len(car_meshes)):
        mask = (owner == car).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, rgb, thickness, cv2.LINE_AA)
    return image


def visible_cars(
    table: pd.DataFrame, car_meshes: list[meshes.Mesh], intrinsics: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(height, width) int32: the row of `table` whose car is seen in each pixel, −1 for none.

    car_meshes: one per row; size: height and width. Cars are filled from far to near: a near one hides
    what is behind it. Faces that reach behind the camera are left out.
    """
    owner = np.full(size, -1, np.int32)
    positions, rotations = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    for car in np.argsort(-positions[:, 2], kind="stable"):
        mesh = car_meshes[car]
        points = mesh.vertices @ rotations[car].T + positions[car]
        faces = mesh.faces[(points[mesh.faces, 2] > meshes.NEAR).all(axis=1)]
        # One by one: filled together, overlapping triangles would cancel out.
        for triangle in meshes.fixed_point(camera.project(intrinsics, points[faces])):
            cv2.fillConvexPoly(owner, triangle, int(car), shift=meshes.FIXED_POINT)
    return owner
