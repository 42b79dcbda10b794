"""Cars → training targets: which cells learn which car, and what each head makes of that."""

import numpy as np

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera
from models.layers import DENSE

from .head import Cars, Cells, make_heads

SIDE = 3  # cells across the square about a centre that learns its car


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
    """Cars of a batch of pictures → targets. All pictures at once: the calls cost more than the numbers.

    xyz (N, 3) metres; rotation (N, 3, 3); weight (N,): 1 = labelled, 0 … 1 = pseudo label, 0 = unsure;
    intrinsics (B, 3, 3), or (3, 3) of a single picture; size: width, height of the maps; focal_reference:
    focal length of the nominal maps in cells; noise (N,): standard deviation of a label's log z, for all
    batches of a training or (None) for none; photo (N,): each car's picture, 0 … B − 1 (default: 0).
    Cars whose centre is outside the maps, or nearer than half a metre, have no target.

    Returns by name: heatmap (B, height, width) float32, peaks of exactly 1; ignore, bool of that shape: cells
    that are neither positive nor negative; peak (P,), cells of the centres, and peak_weight, the probability
    that the car is there; cell (M,), cells that learn a car, and weight; and what the heads make of those
    cells' cars, (M, numbers). Cells are counted row by row through the whole batch.
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
    heatmap, ignore = heads[DENSE].draw(cars, shape)
    cars = cars[cars.weight > 0]
    centre = (cars.photo * height + cars.row) * width + cars.column
    peak, first = np.unique(centre, return_index=True)
    ignore.reshape(-1)[peak] = False
    cells = assign(cars, shape)
    targets = {DENSE: heatmap, "ignore": ignore, "peak": peak}
    targets |= {"peak_weight": cars.weight[first].astype(np.float32)}
    targets |= {"cell": cells.cell, "weight": cells.weight}
    for head in heads.values():
        targets |= head.targets(cars, cells)
    return targets


def assign(cars: Cars, shape: tuple[int, int, int]) -> Cells:
    """The cells about each centre learn its car; where cars compete the nearer centre wins.

    shape: (B, height, width) of the maps.
    """
    _, height, width = shape
    dy, dx = np.divmod(np.arange(SIDE * SIDE), SIDE) - np.array([[SIDE // 2]])
    columns, rows = cars.column[:, None] + dx, cars.row[:, None] + dy
    inside = ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)).reshape(-1)
    car = np.flatnonzero(inside) // SIDE**2
    places = np.stack([columns.reshape(-1)[inside], rows.reshape(-1)[inside]], axis=1)
    offset = cars.uv[car] - places
    distance = (offset**2).sum(axis=1)
    cell = cars.photo[car] * (height * width) + places[:, 1] * width + places[:, 0]
    # By cell and, within a cell, by distance: one sort of one number is five times as fast as lexsort.
    order = np.argsort(cell + distance / (distance.max(initial=0) + 1), kind="stable")
    nearest = order[np.diff(cell[order], prepend=-1) > 0]
    car = car[nearest]
    weight = (cars.weight[car] * np.exp(-distance[nearest] / 2)).astype(np.float32)
    return Cells(cell[nearest], car, offset[nearest], weight)


def pad_targets(targets: dict, max_objects: int) -> dict:
    """The same targets with as many peaks and cells as `max_objects` cars, no fewer than there are, can have;
    those added have no weight. What a GPU replays needs one shape. targets: arrays and, of maps, tensors.

    The added ones are spread over the maps: gradients that meet in a cell are summed one after the other.
    """
    last = targets[DENSE].numel() - 1
    padded = dict(targets)
    for name in set(targets) - {DENSE, "ignore"}:
        value = targets[name]
        more = max_objects * (1 if name.startswith("peak") else SIDE**2) - len(value)
        index = name in ("peak", "cell")
        added = np.linspace(0, last, more) if index else np.zeros((more, *value.shape[1:]))
        padded[name] = np.concatenate([value, added.astype(value.dtype)])
    return padded
