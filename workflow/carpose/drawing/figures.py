"""Photos with their cars: figures with a row per photo, from the camera and from above; the public frames."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.geometry import camera, meshes

from .cars import draw_cars, draw_from_above

DPI = 150
PREDICTED, TRUE = "#E69F00", "#56B4E9"
LABELS = {PREDICTED: "predicted", TRUE: "true"}
THICKNESS = {PREDICTED: 2, TRUE: 4}  # pixels: what is true, drawn first, shines through
SHOWN_CROP = [0.0, 0.42, 1.0, 0.85]  # left, top, right, bottom of the photo: where the cars are
SHOWN_WIDTH = 1200  # pixels of a photo in the grid
FRAME_CROPS = {"full": [0.0, 0.0, 1.0, 1.0], "lower": [0.0, 0.5, 1.0, 1.0]}
# A frame without a name → the training image that it shows, or a near twin of it: of all training images
# its five cars lie and head most like those in the picture (centres up to 1 % of the width off).
LIKELY = {"unknown_full": "ID_67bd026ea"}


def predictions_figure(
    data: Path, image_ids: list[str], predicted: pd.DataFrame, truth: pd.DataFrame | None, count: int
) -> Figure:
    """Test photos with predicted (and true) cars as boxes, a view from above beside each.

    data: the competition's folder; image_ids: the photos to choose from, `count` of them, spread from few
    cars to many; predicted, truth: tables of cars. Where the table says which cars are sure, only these are
    drawn.
    """
    intrinsics = camera.read_intrinsics(data / "camera" / "camera_intrinsic.txt")
    if "sure" in predicted:
        predicted = predicted[predicted["sure"]]
    layers = [(predicted, PREDICTED)] if truth is None else [(truth, TRUE), (predicted, PREDICTED)]
    counts = layers[0][0].groupby("ImageId").size().reindex(image_ids, fill_value=0)
    photos = {image_id: data / "test_images" / f"{image_id}.jpg" for image_id in spread(counts, count)}
    return cars_figure(photos, intrinsics, layers)


def cars_figure(
    photos: dict[str, Path], intrinsics: np.ndarray, layers: list[tuple[pd.DataFrame, str]]
) -> Figure:
    """One row per photo: the photo with cars as boxes, and the view from above.

    photos: ImageId → file; intrinsics: 3×3 of the whole photo; layers: tables of cars and their colours,
    what is drawn first comes first.
    """
    figure = Figure(figsize=(10, 2.6 * len(photos) + 0.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(photos), 2, squeeze=False, width_ratios=[2, 1])
    for (left, right), (image_id, path) in zip(grid, photos.items(), strict=True):
        photo = read_photo(path)
        photo_size = photo.shape[1::-1]
        crop_width, crop_height = (SHOWN_CROP[i + 2] - SHOWN_CROP[i] for i in (0, 1))
        height = round(SHOWN_WIDTH * crop_height * photo_size[1] / (crop_width * photo_size[0]))
        view = camera.crop_and_resize(photo_size, SHOWN_CROP, (SHOWN_WIDTH, height))
        photo = cv2.warpPerspective(photo, view, (SHOWN_WIDTH, height), flags=cv2.INTER_AREA)
        own = [(table[table["ImageId"] == image_id], colour) for table, colour in layers]
        for table, colour in own:
            photo = draw_cars(photo, view @ intrinsics, table, None, colour, THICKNESS[colour])
        left.imshow(photo)
        counted = ", ".join(f"{len(table)} {LABELS[colour]}" for table, colour in reversed(own))
        left.set_title(f"{image_id}: {counted}")
        left.set_axis_off()
        draw_from_above(right, own, intrinsics, photo_size[0])
    handles = [Line2D([], [], color=colour, linewidth=2, label=LABELS[colour]) for _, colour in layers]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_frames(real: Path, truth: pd.DataFrame, output: Path) -> list[Path]:
    """Draw the true cars, with their meshes, on the public frames of the data set, which come without a
    camera file; one PNG per known frame.

    real: folder with frames/<ImageId>_full.png (whole photos, made smaller) and _lower.png (lower halves),
    car_models_json/ and car_model_ids.csv; truth: table of labelled cars. A frame without truth is named and
    passed over.
    Returns the files written. Raises UserError where a file is missing or unreadable.
    """
    written = []
    for path in sorted((real / "frames").glob("*.png")):
        name, _, piece = path.stem.rpartition("_")
        image_id = LIKELY.get(path.stem, name)
        table = truth[truth["ImageId"] == image_id]
        if not len(table) or piece not in FRAME_CROPS:
            print(f"{path.name}: no truth for it, passed over")
            continue
        names = real / "car_model_ids.csv"
        models = meshes.load_types(real / "car_models_json", names, set(table["model_type"]))
        # Twice as large, so that far cars can be told from their outlines.
        photo = cv2.resize(read_photo(path), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        view = camera.crop_and_resize(camera.PHOTO_SIZE, FRAME_CROPS[piece], photo.shape[1::-1])
        photo = draw_cars(photo, view @ camera.INTRINSICS, table, models, PREDICTED)
        written.append(output / path.name)
        with atomic(written[-1]) as temporary:
            cv2.imwrite(str(temporary), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
        likely = " (likely its truth, see LIKELY)" if path.stem in LIKELY else ""
        print(f"{path.name}: {len(table)} cars of {image_id} drawn{likely}")
    return written


def spread(counts: pd.Series, number: int) -> list[str]:
    """`number` of the ImageIds that index `counts`, evenly spread from few cars to many."""
    order = counts.rename_axis("ImageId").reset_index(name="cars").sort_values(["cars", "ImageId"])["ImageId"]
    number = min(number, len(order))
    places = ((np.arange(number) + 0.5) * len(order) / number).astype(int)
    return order.iloc[places].tolist()


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises UserError where it cannot be read."""
    photo = cv2.imread(str(path))
    if photo is None:
        raise UserError(f"{path}: the picture cannot be read; is it there and whole?")
    return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
