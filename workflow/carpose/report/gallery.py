"""Photos with the outlines of their cars, and the same cars from above, as parts of an HTML page."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import pictures
from carpose.drawing.cars import farthest_shown, seen_from_above
from carpose.drawing.figures import spread
from carpose.drawing.layers import PREDICTED, TRUE, crop_to_cars, draw_layers
from carpose.drawing.outlines import TABLE, CarModels
from carpose.metric.score import LOOSEST

WIDTH, QUALITY = 900, 72  # pixels and JPEG quality of a photo on the page


def read_car_models(data: Path) -> CarModels | None:
    """The car models of the competition's folder, None where it has none."""
    folder = data / "car_models_json"
    return CarModels(folder) if folder.is_dir() and (data / TABLE).is_file() else None


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
    models: CarModels | None,
    usual_type: int | None,
    count: int,
) -> list[Photo]:
    """`count` of the photos, spread from few cars to many.

    files: ImageId → photo; predicted: cars of a fusion, of which those above the threshold are drawn; truth:
    true cars, None where they are not known; intrinsics: 3×3 of the whole photo; usual_type: model_type whose
    mesh a predicted car is drawn with, since predictions have no type.
    """
    predicted = predicted[predicted["above_threshold"].astype(bool)].assign(model_type=usual_type)
    counts = predicted.groupby("ImageId").size().reindex(image_ids, fill_value=0)
    photos = []
    for image_id in spread(counts, count):
        photo_cars = predicted[predicted["ImageId"] == image_id]
        photo_truth = None if truth is None else truth[truth["ImageId"] == image_id]
        layers = [(photo_cars, PREDICTED)]
        if photo_truth is not None:
            layers.insert(0, (photo_truth, TRUE))
        shown, view = crop_to_cars(pictures.read(files(image_id)), WIDTH)
        picture = draw_layers(shown, view @ intrinsics, layers, models)
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


def svg_from_above(layers: list[tuple[pd.DataFrame, str]], intrinsics: np.ndarray) -> str:
    """An SVG of the x–z plane in metres, camera at the bottom: cars as rectangles with their heading."""
    far = farthest_shown(layers)
    half = 1.03 * far * intrinsics[0, 2] / intrinsics[0, 0]
    parts = [f'<path class="view" d="M{-half:.1f} 0L0 {far:.1f}L{half:.1f} 0"/>']
    for ring in range(20, int(far), 20):
        parts.append(f'<path class="grid" d="M{-half:.1f} {far - ring:.1f}H{half:.1f}"/>')
        parts.append(f'<text x="{-half + 0.5:.1f}" y="{far - ring - 0.6:.1f}">{ring} m</text>')
    for table, colour in layers:
        lines = []
        for corners, front in zip(*seen_from_above(table), strict=True):
            outline, arrow = (
                "L".join(f"{x:.1f} {far - z:.1f}" for x, z in line) for line in (corners, front)
            )
            lines.append(f"M{outline}ZM{arrow}")
        kind = "predicted" if colour == PREDICTED else "true"
        parts.append(f'<path class="{kind}" d="{"".join(lines)}"/>')
    box = f"{-half:.1f} 0 {2 * half:.1f} {far:.1f}"
    return (
        f'<svg viewBox="{box}" class="above" role="img" aria-label="cars from above">{"".join(parts)}</svg>'
    )


def _jpeg(picture: np.ndarray) -> str:
    _, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return base64.b64encode(content.tobytes()).decode()
