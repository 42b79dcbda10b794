"""Photos with the outlines of their cars, and the same cars from above, as parts of an HTML page."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars, pictures
from carpose.drawing.figures import PREDICTED, SHOWN_CROP, TRUE, spread
from carpose.geometry import camera, meshes, rotation
from carpose.metric.score import LOOSEST

WIDTH, QUALITY = 900, 72  # pixels and JPEG quality of a photo on the page
THICKNESS = {PREDICTED: 2, TRUE: 4}  # pixels: what is true, drawn first, shines through
ARROW = 3.5  # metres from a car's centre to the tip of its heading
HIDDEN_EDGES = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])
BOX = meshes.Mesh(meshes.CAR_CORNERS, np.vstack([HIDDEN_EDGES[:, [0, 1, 2]], HIDDEN_EDGES[:, [0, 2, 3]]]))


@dataclass(frozen=True)
class Shapes:
    """The mesh of each car: by its model_type where the table has one, else the most frequent of the labels.

    by_type: model_type → mesh; usual: for cars without a type, a box where the data set has no car models.
    """

    by_type: dict[int, meshes.Mesh]
    usual: meshes.Mesh

    def of(self, table: pd.DataFrame) -> list[meshes.Mesh]:
        """One mesh per row."""
        types = table["model_type"] if "model_type" in table else pd.Series(-1, index=table.index)
        return [self.by_type.get(int(number), self.usual) for number in types]


def read_shapes(data: Path, labels: pd.DataFrame) -> Shapes:
    """The car models of the competition's folder, as far as it holds them. Raises UserError where one is
    damaged."""
    table = data / "car_model_ids.csv"
    if not table.is_file():
        return Shapes({}, BOX)
    names, folder = meshes.read_names(table), data / "car_models_json"
    files = {int(number): folder / f"{name}.json" for number, name in names.items()}
    by_type = {number: meshes.load(path) for number, path in files.items() if path.is_file()}
    frequent = labels["model_type"].value_counts().index if "model_type" in labels else []
    return Shapes(by_type, next((by_type[int(n)] for n in frequent if int(n) in by_type), BOX))


@dataclass(frozen=True)
class Photo:
    """One photo of the gallery, ready for the page.

    picture: JPEG as base64; from_above: SVG; score: mean score of the predicted cars; error: share of the
    true cars that no prediction hits at the metric's loosest thresholds, or None; distance: median z, metres.
    """

    image_id: str
    picture: str
    width: int
    height: int
    from_above: str
    predicted: int
    true: int | None
    score: float | None
    error: float | None
    distance: float | None


def make_photos(
    files: Callable[[str], Path],
    image_ids: list[str],
    predicted: pd.DataFrame,
    truth: pd.DataFrame | None,
    intrinsics: np.ndarray,
    shapes: Shapes,
    count: int,
) -> list[Photo]:
    """`count` of the photos, spread from few cars to many.

    files: ImageId → photo; predicted: cars of a fusion, of which those above the threshold are drawn; truth:
    true cars, None where they are not known; intrinsics: 3×3 of the whole photo.
    """
    predicted = predicted[predicted["above_threshold"].astype(bool)]
    counts = predicted.groupby("ImageId").size().reindex(image_ids, fill_value=0)
    photos = []
    for image_id in spread(counts, count):
        photo_cars = predicted[predicted["ImageId"] == image_id]
        photo_truth = None if truth is None else truth[truth["ImageId"] == image_id]
        layers = [(photo_cars, PREDICTED)]
        if photo_truth is not None:
            layers.insert(0, (photo_truth, TRUE))
        picture = draw_outlines(pictures.read(files(image_id)), intrinsics, layers, shapes)
        error = None
        if photo_truth is not None and len(photo_truth):
            error = 1 - metric.match(photo_truth, photo_cars)[:, LOOSEST].sum() / len(photo_truth)
        photos.append(
            Photo(
                image_id=image_id,
                picture=_jpeg(picture),
                width=picture.shape[1],
                height=picture.shape[0],
                from_above=svg_from_above(layers, intrinsics),
                predicted=len(photo_cars),
                true=None if photo_truth is None else len(photo_truth),
                score=float(photo_cars["score"].mean()) if len(photo_cars) else None,
                error=error,
                distance=float(photo_cars["z"].median()) if len(photo_cars) else None,
            )
        )
    return photos


def draw_outlines(
    photo: np.ndarray, intrinsics: np.ndarray, layers: list[tuple[pd.DataFrame, str]], shapes: Shapes
) -> np.ndarray:
    """The part of a photo where the cars are, WIDTH pixels wide, with the visible outline of each car.

    photo: (H, W, 3) uint8 RGB; intrinsics: 3×3 of it; layers: tables of cars and their colours, what is drawn
    first comes first.
    """
    width, height = photo.shape[1::-1]
    left, top, right, bottom = SHOWN_CROP
    size = (WIDTH, round(WIDTH * (bottom - top) * height / ((right - left) * width)))
    view = camera.crop_and_resize((width, height), SHOWN_CROP, size)
    picture = cv2.warpPerspective(photo, view, size, flags=cv2.INTER_AREA)
    for table, colour in layers:
        owner = visible_cars(table, shapes, view @ intrinsics, size)
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        for car in range(len(table)):
            mask = (owner == car).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, rgb, THICKNESS[colour], cv2.LINE_AA)
    return picture


def visible_cars(
    table: pd.DataFrame, shapes: Shapes, intrinsics: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(height, width) int: the row of `table` whose car one sees in each pixel, −1 for none.

    Cars are filled from far to near, so that a near one hides what is behind it. A car that reaches to less
    than meshes.NEAR before the camera is left out.
    """
    owner = np.full(size[::-1], -1, np.int32)
    positions, turns = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    all_meshes = shapes.of(table)
    for car in np.argsort(-positions[:, 2], kind="stable"):
        mesh = all_meshes[car]
        points = mesh.vertices @ turns[car].T + positions[car]
        if points[:, 2].min() <= meshes.NEAR:
            continue
        corners = meshes.fixed_point(camera.project(intrinsics, points))[mesh.faces]
        for triangle in corners:  # filled one by one: together, overlapping ones would cancel out
            cv2.fillConvexPoly(owner, triangle, int(car), cv2.LINE_8, meshes.FIXED_POINT)
    return owner


def svg_from_above(layers: list[tuple[pd.DataFrame, str]], intrinsics: np.ndarray) -> str:
    """An SVG of the x–z plane in metres, camera at the bottom: cars as rectangles with their heading."""
    depths = np.concatenate([table["z"].to_numpy(float) for table, _ in layers])
    far = float(np.clip(1.1 * np.nanmax(depths, initial=25), 25, 130))
    half = 1.03 * far * intrinsics[0, 2] / intrinsics[0, 0]
    parts = [f'<path class="view" d="M{-half:.1f} 0L0 {far:.1f}L{half:.1f} 0"/>']
    for ring in range(20, int(far), 20):
        parts.append(f'<path class="grid" d="M{-half:.1f} {far - ring:.1f}H{half:.1f}"/>')
        parts.append(f'<text x="{-half + 0.5:.1f}" y="{far - ring - 0.6:.1f}">{ring} m</text>')
    floor = meshes.CAR_CORNERS[[0, 1, 5, 4]]
    for table, colour in layers:
        turns, centres = rotation.matrix(table[cars.ANGLES]), table[cars.POSITION].to_numpy(float)
        corners = (np.einsum("nij,kj->nki", turns, floor) + centres[:, None])[..., [0, 2]]
        tips = (centres + ARROW * turns[:, :, 2])[:, [0, 2]]
        lines = []
        for car, centre, tip in zip(corners, centres[:, [0, 2]], tips, strict=True):
            outline = "L".join(f"{x:.1f} {far - z:.1f}" for x, z in car)
            front = "L".join(f"{x:.1f} {far - z:.1f}" for x, z in (centre, tip))
            lines.append(f"M{outline}ZM{front}")
        kind = "predicted" if colour == PREDICTED else "true"
        parts.append(f'<path class="{kind}" d="{"".join(lines)}"/>')
    box = f"{-half:.1f} 0 {2 * half:.1f} {far:.1f}"
    return (
        f'<svg viewBox="{box}" class="above" role="img" aria-label="cars from above">{"".join(parts)}</svg>'
    )


def _jpeg(picture: np.ndarray) -> str:
    _, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return base64.b64encode(content.tobytes()).decode()
