"""What drawings of one photo share: the colours of predicted and true cars, the part of the photo where
the cars are, and cars of several tables on one image.

Layers are pairs of a table of cars and its colour (a key of LABELS), in the order in which they are drawn.
"""

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from carpose.geometry import camera

from .outlines import CarModels, draw_outlines

PREDICTED, TRUE = "#E69F00", "#56B4E9"
LABELS = {PREDICTED: "predicted", TRUE: "true"}
THICKNESS = {PREDICTED: 2, TRUE: 4}  # pixels: true cars are drawn first, and wider so that they stay visible
SHOWN_CROP = [0.0, 0.42, 1.0, 0.85]  # left, top, right, bottom as fractions of the photo: where the cars are


def crop_to_cars(image: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) photo → its SHOWN_CROP, `width` pixels wide, and the view (3×3) from photo to its pixels."""
    photo_size = image.shape[1::-1]
    left, top, right, bottom = SHOWN_CROP
    height = round(width * (bottom - top) * photo_size[1] / ((right - left) * photo_size[0]))
    view = camera.crop_and_resize(photo_size, SHOWN_CROP, (width, height))
    return cv2.warpPerspective(image, view, (width, height), flags=cv2.INTER_AREA), view


def draw_layers(
    image: np.ndarray,
    intrinsics: np.ndarray,
    layers: list[tuple[pd.DataFrame, str]],
    models: CarModels | None = None,
) -> np.ndarray:
    """The image (H, W, 3) with all layers; intrinsics: 3×3 of this image; models: None draws boxes."""
    for table, colour in layers:
        image = draw_outlines(image, intrinsics, table, models, colour, THICKNESS[colour])
    return image


def count_text(layers: list[tuple[pd.DataFrame, str]]) -> str:
    """How many cars each layer has, such as "3 predicted, 2 true"."""
    return ", ".join(f"{len(table)} {LABELS[colour]}" for table, colour in reversed(layers))


def add_legend(figure: Figure, layers: list[tuple[pd.DataFrame, str]]) -> None:
    """The colours below the figure."""
    handles = [Line2D([], [], color=colour, linewidth=2, label=LABELS[colour]) for _, colour in layers]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
