"""Cars → training targets: the cells assigned to each car, and the targets of each head at these cells."""

from typing import cast

import numpy as np

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera
from models.layers import HEATMAP

from .head import Cars, Cells, make_heads
from .heatmap import Heatmap

WINDOW = 3  # the WINDOW × WINDOW cells around a centre are assigned to its car


def encode(
    xyz: np.ndarray,
    rotation: np.ndarray,
    weight: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    focal_reference: float,
    train_config: TrainConfig,
    noise: np.ndarray | None = None,
    photo: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Cars of a batch → targets. One call for the whole batch, because NumPy's overhead per call dominates.

    xyz (N, 3) metres; rotation (N, 3, 3); weight (N,): 1 for a label, 0 … 1 for a pseudo label, 0 ignored;
    intrinsics (B, 3, 3), or (3, 3) of a single photo; size: width, height of the maps; focal_reference:
    focal length, in cells, of the maps of the view without augmentation; noise (N,): standard deviation of
    the label's log z, given in every batch of a training or never; photo (N,): index of each car's photo,
    0 … B − 1 (default: 0). Cars whose centre is outside the maps or nearer than 0.5 m have no target.

    Returns by name: heatmap (B, height, width) float32, peaks of exactly 1; ignore, bool of that shape: cells
    that are neither positive nor negative; peak (P,), cell indices of the centres, and peak_weight, the cars'
    weights; cell (M,), indices of the positive cells (assigned to a car), and weight (M,), their weights in
    the loss; and the targets of the heads at these cells, (M, numbers).
    """
    width, height = size
    photo = np.zeros(len(xyz), np.int64) if photo is None else photo
    intrinsics = np.reshape(intrinsics, (-1, 3, 3))
    shape = (len(intrinsics), height, width)
    uv = camera.project(intrinsics[photo], np.where(xyz[:, 2:] > 0.5, xyz, [[0, 0, 1.0]]))
    column, row = np.floor(uv + 0.5).astype(np.int64).T
    inside = (xyz[:, 2] > 0.5) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    focal = camera.focal(intrinsics)[photo]
    cars = Cars(xyz, rotation, weight, noise, photo, uv, column, row, focal, focal_reference)[inside]

    heads = make_heads(train_config)
    heatmap, ignore = cast(Heatmap, heads[HEATMAP]).draw(cars, shape)
    cars = cars[cars.weight > 0]
    centre = (cars.photo * height + cars.row) * width + cars.column
    peak, first_car = np.unique(centre, return_index=True)
    ignore.reshape(-1)[peak] = False
    cells = assign(cars, shape)
    targets = {HEATMAP: heatmap, "ignore": ignore, "peak": peak}
    targets |= {"peak_weight": cars.weight[first_car].astype(np.float32)}
    targets |= {"cell": cells.cell, "weight": cells.weight}
    for head in heads.values():
        targets |= head.targets(cars, cells)
    return targets


def assign(cars: Cars, shape: tuple[int, int, int]) -> Cells:
    """Assign the WINDOW × WINDOW cells around each centre to its car; of several cars, to the one whose
    centre is nearest.

    shape: (B, height, width) of the maps. The weight of a cell is the car's weight times exp(−d²/2), d being
    the distance to the centre in cells.
    """
    _, height, width = shape
    dy, dx = np.divmod(np.arange(WINDOW * WINDOW), WINDOW) - np.array([[WINDOW // 2]])
    columns, rows = cars.column[:, None] + dx, cars.row[:, None] + dy
    inside = ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)).reshape(-1)
    car = np.flatnonzero(inside) // WINDOW**2
    cell_xy = np.stack([columns.reshape(-1)[inside], rows.reshape(-1)[inside]], axis=1)
    offset = cars.uv[car] - cell_xy
    distance2 = (offset**2).sum(axis=1)
    cell = cars.photo[car] * (height * width) + cell_xy[:, 1] * width + cell_xy[:, 0]
    # Sorted by cell, then by distance: one key (cell + a value below 1) is five times as fast as lexsort.
    order = np.argsort(cell + distance2 / (distance2.max(initial=0) + 1), kind="stable")
    nearest = order[np.diff(cell[order], prepend=-1) > 0]
    car = car[nearest]
    weight = (cars.weight[car] * np.exp(-distance2[nearest] / 2)).astype(np.float32)
    return Cells(cell[nearest], car, offset[nearest], weight)


def pad_targets(targets: dict, max_objects: int) -> dict:
    """Pad peaks and cells to the number that `max_objects` cars can have, with entries of weight 0, because a
    CUDA graph needs fixed shapes. targets: NumPy arrays, and tensors for maps; max_objects: at least the
    number of cars.

    The added entries are spread over the maps: many entries at one cell would serialise the gradient's
    scatter.
    """
    last = targets[HEATMAP].numel() - 1
    padded = dict(targets)
    for name in set(targets) - {HEATMAP, "ignore"}:
        value = targets[name]
        missing = max_objects * (1 if name.startswith("peak") else WINDOW**2) - len(value)
        is_index = name in ("peak", "cell")
        added = np.linspace(0, last, missing) if is_index else np.zeros((missing, *value.shape[1:]))
        padded[name] = np.concatenate([value, added.astype(value.dtype)])
    return padded
