"""Photos with their cars: figures with a row per photo, from the camera and from above."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carpose.core import pictures
from carpose.geometry import camera

from .cars import draw_from_above
from .layers import PREDICTED, TRUE, add_legend, count_text, crop_to_cars, draw_layers

DPI = 150
SHOWN_WIDTH = 1200  # pixels, to which a photo is resized


def predictions_figure(
    data: Path, image_ids: list[str], predicted: pd.DataFrame, truth: pd.DataFrame | None, count: int
) -> Figure:
    """Test photos with predicted (and true) cars as boxes, and beside each photo its cars from above.

    data: the competition's folder; image_ids: the photos to choose from; count: how many are shown, evenly
    spread from few cars to many; predicted, truth: tables of cars. Of a fused table, only cars above the
    threshold are drawn.
    """
    intrinsics = camera.read_intrinsics(camera.intrinsics_file(data))
    if "above_threshold" in predicted:
        predicted = predicted[predicted["above_threshold"]]
    layers = [(predicted, PREDICTED)] if truth is None else [(truth, TRUE), (predicted, PREDICTED)]
    counts = layers[0][0].groupby("ImageId").size().reindex(image_ids, fill_value=0)
    photos = {image_id: data / "test_images" / f"{image_id}.jpg" for image_id in spread(counts, count)}
    return cars_figure(photos, intrinsics, layers)


def cars_figure(
    photos: dict[str, Path], intrinsics: np.ndarray, layers: list[tuple[pd.DataFrame, str]]
) -> Figure:
    """One row per photo: the photo with cars as boxes, and its cars from above.

    photos: ImageId → file; intrinsics: 3×3 of the full-size photo; layers: tables of cars and their colours
    (keys of LABELS), in the order in which they are drawn.
    """
    figure = Figure(figsize=(10, 2.6 * len(photos) + 0.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(photos), 2, squeeze=False, width_ratios=[2, 1])
    for (left, right), (image_id, path) in zip(grid, photos.items(), strict=True):
        image = pictures.read(path)
        photo_layers = [(table[table["ImageId"] == image_id], colour) for table, colour in layers]
        shown, view = crop_to_cars(image, SHOWN_WIDTH)
        left.imshow(draw_layers(shown, view @ intrinsics, photo_layers))
        left.set_title(f"{image_id}: {count_text(photo_layers)} cars")
        left.set_axis_off()
        draw_from_above(right, photo_layers, intrinsics, image.shape[1])
    add_legend(figure, layers)
    return figure


def spread(counts: pd.Series, number: int) -> list[str]:
    """`number` of the ImageIds, evenly spread from few cars to many. counts: number of cars by ImageId."""
    order = counts.rename_axis("ImageId").reset_index(name="cars").sort_values(["cars", "ImageId"])["ImageId"]
    number = min(number, len(order))
    rows = ((np.arange(number) + 0.5) * len(order) / number).astype(int)
    return order.iloc[rows].tolist()
