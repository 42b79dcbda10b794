"""One photo of any camera with its cars, and the same cars from above."""

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carpose.geometry import camera

from .cars import draw_from_above
from .figures import DPI
from .layers import add_legend, count_text, draw_layers
from .outlines import CarModels

WIDTH = 1400  # pixels of the photo in the picture
INCHES = WIDTH / DPI
MOST_TALL = 1.4  # height over width, of the photo's place


def overlay_figure(
    image: np.ndarray,
    intrinsics: np.ndarray,
    layers: list[tuple[pd.DataFrame, str]],
    title: str,
    models: CarModels | None = None,
) -> Figure:
    """The whole photo with its cars as boxes, or as outlines of `models`, and the view from above.

    image: (H, W, 3) uint8 RGB; intrinsics: 3×3 of this image; layers: tables of this photo's cars and their
    colours (PREDICTED, TRUE), what is drawn first comes first.
    """
    photo_size = image.shape[1::-1]
    height = round(WIDTH * photo_size[1] / photo_size[0])
    view = camera.crop_and_resize(photo_size, [0, 0, 1, 1], (WIDTH, height))
    method = cv2.INTER_AREA if photo_size[0] > WIDTH else cv2.INTER_LINEAR
    drawn = cv2.resize(image, (WIDTH, height), interpolation=method)
    drawn = draw_layers(drawn, view @ intrinsics, layers, models)
    tall = min(height / WIDTH, MOST_TALL)
    figure = Figure(figsize=(1.6 * INCHES, INCHES * tall + 0.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 0.6])
    left.imshow(drawn)
    left.set_title(f"{title}: {count_text(layers)}", parse_math=False)
    left.set_axis_off()
    draw_from_above(right, layers, intrinsics, photo_size[0])
    add_legend(figure, layers)
    return figure
