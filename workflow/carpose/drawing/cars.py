"""Cars drawn on photos, as boxes or meshes, and seen from above.

In: photos, tables of cars. Out: pictures and figures.
"""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import UserError, camera, cars, meshes, rotation
from .files import atomic
from .metric import read_truth

DPI = 150
PREDICTED, TRUE = "#E69F00", "#56B4E9"
LABELS = {PREDICTED: "predicted", TRUE: "true"}
THICKNESS = {PREDICTED: 2, TRUE: 4}  # pixels: what is true, drawn first, shines through
CAR_SIZE = (1.9, 1.5, 4.4)  # width, height, length in metres of a car whose model is not known
CAR = meshes.box(CAR_SIZE)
EDGES = [(a, b) for a in range(8) for b in range(a) if a ^ b in (1, 2, 4)]
ARROW = 3.5  # metres from the centre to the tip of the heading
SHOWN_CROP = [0.0, 0.42, 1.0, 0.85]  # left, top, right, bottom of the photo: where the cars are
SHOWN_WIDTH = 1200  # pixels of a photo in the grid
FARTHEST = 120  # metres; what is farther would squeeze the view from above

# The data set's photos, of which the `frames` command draws pieces that come without a camera file.
FULL_SIZE = (3384, 2710)
FULL_INTRINSICS = np.array([[2304.5479, 0, 1686.2379], [0, 2305.8757, 1354.9849], [0, 0, 1]])
FRAME_CROPS = {"full": [0.0, 0.0, 1.0, 1.0], "lower": [0.0, 0.5, 1.0, 1.0]}
# A frame without a name → the training image that it shows, or a near twin of it: of all training images
# its five cars lie and head most like those in the picture (centres up to 1 % of the width off).
LIKELY = {"unknown_full": "ID_67bd026ea"}


def draw_cars(
    photo: np.ndarray,
    intrinsics: np.ndarray,
    table: pd.DataFrame,
    models: dict[int, meshes.Mesh] | None,
    colour: str,
    thickness: int = 1,
) -> np.ndarray:
    """Draw each car's outline, centre and an arrow towards its front.

    photo: (H, W, 3) uint8 RGB; intrinsics: 3×3 of this very picture, crop and resize included; table:
    cars, with model_type where `models` is given, else each car is a box of 1.9 × 1.5 × 4.4 m; colour:
    as matplotlib names it; thickness in pixels → a new picture. Cars behind the camera are left out.
    """
    picture, size = photo.copy(), photo.shape[1::-1]
    rgb = tuple(round(255 * channel) for channel in matplotlib.colors.to_rgb(colour))
    pen = {"thickness": thickness, "lineType": cv2.LINE_AA, "shift": meshes.FIXED_POINT}
    table = table[table["z"] > meshes.NEAR].sort_values("z", ascending=False)  # near cars on top
    positions, turns = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
    types = table["model_type"] if models else [None] * len(table)
    for position, turn, model_type in zip(positions, turns, types, strict=True):
        if models:
            lines = meshes.outline(intrinsics, turn, position, models[model_type], size)
        else:
            lines = _segments(intrinsics, CAR.vertices[EDGES] @ turn.T + position)
        cv2.polylines(picture, [meshes.fixed_point(line) for line in lines], models is not None, rgb, **pen)
        heading = np.array([[position, position + ARROW * turn[:, 2]]])
        for ends in _segments(intrinsics, heading):
            barb = min(0.3, 6 * thickness / max(np.hypot(*np.diff(ends, axis=0)[0]), 1))
            tail, tip = meshes.fixed_point(ends)
            cv2.arrowedLine(picture, tail, tip, rgb, thickness, cv2.LINE_AA, meshes.FIXED_POINT, barb)
        centre = meshes.fixed_point(camera.project(intrinsics, position))
        radius = (thickness + 1) << meshes.FIXED_POINT
        cv2.circle(picture, centre, radius, rgb, **pen | {"thickness": cv2.FILLED})
    return picture


def _segments(intrinsics, ends):
    """(S, 2, 3) segments in metres → (≤ S, 2, 2) pixels of what lies before the camera."""
    depth = ends[..., 2]
    visible = (depth > meshes.NEAR).any(axis=1)
    ends, depth = ends[visible], depth[visible]
    step = np.diff(depth, axis=1)
    share = (meshes.NEAR - depth) / np.where(step == 0, 1, step)  # from each end to the near plane
    crossing = ends[:, :1] + share[:, :1, None] * (ends[:, 1:] - ends[:, :1])
    return camera.project(intrinsics, np.where(depth[..., None] > meshes.NEAR, ends, crossing))


def draw_from_above(axes, layers: list[tuple[pd.DataFrame, str]], intrinsics: np.ndarray, width: int) -> None:
    """Cars as rectangles on the x–z plane, a line from each centre to its front, and the field of view.

    layers: tables of cars and their colours; intrinsics: 3×3 of a picture `width` pixels wide.
    """
    depths = np.concatenate([table["z"].to_numpy(float) for table, _ in layers])
    farthest = max(25, 1.1 * depths[depths < FARTHEST].max(initial=0))
    edges = camera.backproject(intrinsics, np.array([[-0.5, 0.0], [width - 0.5, 0.0]]), np.full(2, farthest))
    for edge in edges:
        axes.plot([0, edge[0]], [0, farthest], color="0.6", linewidth=0.8, linestyle="--")
    floor = CAR.vertices[[0, 1, 5, 4]]  # left and right, back and front, at one height
    for table, colour in layers:
        position, turn = table[cars.POSITION].to_numpy(float), rotation.matrix(table[cars.ANGLES])
        corners = (np.einsum("nij,kj->nki", turn, floor) + position[:, None])[..., [0, 2]]
        fronts = np.stack([position, position + ARROW * turn[:, :, 2]], axis=1)[..., [0, 2]]
        style = {"edgecolors": colour, "facecolors": "none", "linewidths": 1.2}
        axes.add_collection(PolyCollection(corners, **style))
        axes.add_collection(PolyCollection(fronts, closed=False, **style))
    axes.set(
        aspect="equal", ylim=(0, farthest), xlim=sorted(edges[:, 0] * 1.02), xlabel="x [m]", ylabel="z [m]"
    )
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)


def spread(counts: pd.Series, images: int) -> list[str]:
    """`images` of the ImageIds that index `counts`, evenly spread from few cars to many."""
    order = counts.rename_axis("ImageId").reset_index(name="cars").sort_values(["cars", "ImageId"])["ImageId"]
    images = min(images, len(order))
    places = ((np.arange(images) + 0.5) * len(order) / images).astype(int)
    return order.iloc[places].tolist()


def _read_photo(path):
    photo = cv2.imread(str(path))
    if photo is None:
        raise UserError(f"{path}: the picture cannot be read; is it there and whole?")
    return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)


def predictions_figure(
    data: str | Path, predicted: pd.DataFrame, truth: pd.DataFrame | None, images: int
) -> Figure:
    """Photos with predicted (and true) cars as boxes, a view from above beside each.

    data: the competition's folder; predicted, truth: tables of cars; images: how many of its test photos.
    Where the table says which cars are sure, only these are drawn.
    Raises UserError where the folder has no test photos.
    """
    if images < 1:
        raise UserError(f"--images {images}: at least one photo is needed")
    data = Path(data)
    photos = {path.stem: path for path in sorted((data / "test_images").glob("*.jpg"))}
    if not photos:
        raise UserError(f"{data / 'test_images'}: no *.jpg there; --data must name the competition's folder")
    intrinsics = camera.read_intrinsics(data / "camera" / "camera_intrinsic.txt")
    if "sure" in predicted:
        predicted = predicted[predicted["sure"]]
    layers = [(predicted, PREDICTED)] if truth is None else [(truth, TRUE), (predicted, PREDICTED)]
    counts = layers[0][0].groupby("ImageId").size().reindex(list(photos), fill_value=0)
    return cars_figure(
        {image_id: photos[image_id] for image_id in spread(counts, images)}, intrinsics, layers
    )


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
        photo = _read_photo(path)
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


def draw_frames(real: str | Path, output: str | Path) -> list[Path]:
    """Draw the true cars, with their meshes, on the public frames of the data set; one PNG per known frame.

    real: folder with frames/<ImageId>_full.png (whole photos, made smaller) and _lower.png (lower halves),
    train.csv, car_models_json/ and car_model_ids.csv. A frame without truth is named and passed over.
    Returns the files written. Raises UserError where a file is missing or unreadable.
    """
    real, written = Path(real), []
    truth = read_truth(real / "train.csv")
    for path in sorted((real / "frames").glob("*.png")):
        name, _, piece = path.stem.rpartition("_")
        image_id = LIKELY.get(path.stem, name)
        table = truth[truth["ImageId"] == image_id]
        if not len(table) or piece not in FRAME_CROPS:
            print(f"{path.name}: no truth for it, passed over")
            continue
        models = meshes.load_types(
            real / "car_models_json", real / "car_model_ids.csv", set(table["model_type"])
        )
        photo = _read_photo(path)
        # Twice as large, so that far cars can be told from their outlines.
        photo = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        view = camera.crop_and_resize(FULL_SIZE, FRAME_CROPS[piece], photo.shape[1::-1])
        photo = draw_cars(photo, view @ FULL_INTRINSICS, table, models, PREDICTED)
        written.append(Path(output) / path.name)
        with atomic(written[-1]) as temporary:
            cv2.imwrite(str(temporary), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
        likely = " (likely its truth, see LIKELY)" if path.stem in LIKELY else ""
        print(f"{path.name}: {len(table)} cars of {image_id} drawn{likely}")
    return written
