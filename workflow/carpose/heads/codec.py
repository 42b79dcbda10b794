"""Cars → training targets, and output maps → cars: two inverse functions side by side.

Frames: everything here is in the *network's* camera (after carpose.augment) and in cells of the output
maps; `intrinsics` are those of the output maps (cells(stride)·view·K).
Heads: heatmap (1 logit), offset (2, cells; or x and y in units of 10 m), depth (1, and 1 log scale with
uncertainty), height (on request, like depth), rotation (6: sin and cos of yaw, of pitch, and of roll + π,
none of which jumps at ±π; 2 where pitch and roll are constants; or the 4 of a quaternion, of either sign).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from models.layers import around

from . import camera
from .recipe import Recipe
from .rotation import angles as angles_of
from .rotation import angles_from_quaternion
from .rotation import matrix as matrix_of
from .rotation import quaternion as quaternion_of

STRIDE = 4
CAR_HEIGHT = 1.5  # metres: only scales the heat map's peaks
TYPICAL_DEPTH = 35.0  # metres at the reference focal length: centres the depth head's output on zero
POSITION_UNIT = 10.0  # metres: brings regressed x and y near one
SURE_IGNORE = 0.1  # of a peak: the part of an unsure car's bump that is left out of the loss
SAME_CENTRE = 0.3  # cells: how far apart neighbouring cells put the centre of one car
UNKNOWN = 10.0  # standard deviation of log z where an output is beyond all depths


def heads(recipe: Recipe) -> dict[str, int]:
    """Output channels by head, as models.build_model takes them."""
    depth = 2 if recipe.depth_uncertainty else 1
    rotation = 4 if recipe.rotation == "quaternion" else 2 if recipe.pitch_roll == "constant" else 6
    height = {"height": depth} if recipe.height_cue else {}
    return {"heatmap": 1, "offset": 2, "depth": depth, **height, "rotation": rotation}


# Depth parametrisations: (z relative to TYPICAL_DEPTH and focal length → target, target → relative z).
DEPTH = {
    "log": (np.log, np.exp),
    "direct": (lambda z: z - 1, lambda t: np.maximum(t + 1, 1e-2)),
    "inverse": (lambda z: 1 / z - 1, lambda t: 1 / np.maximum(t + 1, 1e-2)),
    "sigmoid": (lambda z: -np.log(z), lambda t: np.exp(-np.clip(t, -20, 20))),  # z = 1/σ(t) − 1
}
HEIGHT = "inverse"  # of the height head: a car of CAR_HEIGHT appears the higher the nearer it is, as 1/z


@dataclass
class Targets:
    """Targets of a batch. `peak` and `cell` count through the whole batch, row by row; a row of the arrays
    below each belongs to it."""

    heatmap: np.ndarray  # (B, height, width) float32, peaks of exactly 1
    ignore: np.ndarray  # (B, height, width) bool: cells that are neither positive nor negative
    peak: np.ndarray  # (P,) cells of the centres
    peak_weight: np.ndarray  # (P,) probability that the car is there
    cell: np.ndarray  # (N,) cells that learn a car's pose
    weight: np.ndarray  # (N,)
    offset: np.ndarray  # (N, 2) cells, or x and y in POSITION_UNIT
    depth: np.ndarray  # (N, 1)
    rotation: np.ndarray  # (N, 2, 4 or 6)
    depth_noise: np.ndarray | None = None  # (N, 1) Laplace scale of the label's own error; None: all are true
    height: np.ndarray | None = None  # (N, 1) apparent height, relative to that at TYPICAL_DEPTH, less 1
    height_noise: np.ndarray | None = None  # (N, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name, what is None left out; no copies."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items() if value is not None}


def encode(
    xyz: np.ndarray,
    rotation: np.ndarray,
    weight: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    focal_reference: float,
    recipe: Recipe,
    noise: np.ndarray | None = None,
    photo: np.ndarray | None = None,
) -> Targets:
    """Cars of a batch of pictures → targets. All pictures at once: the calls cost more than the numbers.

    xyz (N, 3) metres; rotation (N, 3, 3); weight (N,): 1 = labelled, 0 … 1 = pseudo label, 0 = unsure;
    intrinsics (B, 3, 3), or (3, 3) of a single picture; size: width, height of the maps; focal_reference:
    focal length of the nominal maps in cells; noise (N,): standard deviation of a label's log z (default:
    0); photo (N,): each car's picture, 0 … B − 1 (default: 0).
    Cars whose centre is outside the maps, or nearer than half a metre, have no target.
    """
    width, height = size
    noise = np.zeros(len(xyz)) if noise is None else noise
    photo = np.zeros(len(xyz), np.int64) if photo is None else photo
    intrinsics = np.reshape(intrinsics, (-1, 3, 3))
    shape = (len(intrinsics), height, width)
    uv = camera.project(intrinsics[photo], np.where(xyz[:, 2:] > 0.5, xyz, [[0, 0, 1.0]]))
    column, row = np.floor(uv + 0.5).astype(np.int64).T
    seen = (xyz[:, 2] > 0.5) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    cars = (xyz, rotation, weight, noise, uv, column, row, photo)
    xyz, rotation, weight, noise, uv, column, row, photo = (a[seen] for a in cars)
    focal = camera.focal(intrinsics)[photo]
    distance = xyz[:, 2] if recipe.radius_rule == "apparent" else TYPICAL_DEPTH
    sigma = np.maximum(recipe.radius * CAR_HEIGHT * focal / distance, 0.7)

    sure = weight > 0
    heatmap, ignore = _bumps(photo, column, row, sigma, sure, shape)
    if not sure.all():
        cars = (xyz, rotation, weight, noise, uv, column, row, photo, focal)
        xyz, rotation, weight, noise, uv, column, row, photo, focal = (a[sure] for a in cars)
    first = photo * (height * width)  # cell of each car's picture
    peak, order = np.unique(first + row * width + column, return_index=True)
    ignore.reshape(-1)[peak] = False

    # Cells around a centre learn its pose too; where cars compete the nearer centre wins.
    side = 2 * recipe.regression_radius + 1
    dy, dx = np.divmod(np.arange(side * side), side) - np.array([[recipe.regression_radius]])
    columns, rows = column[:, None] + dx, row[:, None] + dy
    inside = ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)).reshape(-1)
    car = np.flatnonzero(inside) // side**2
    cells = np.stack([columns.reshape(-1)[inside], rows.reshape(-1)[inside]], axis=1)
    offset = uv[car] - cells
    nearness = (offset**2).sum(axis=1)
    cell = first[car] + cells[:, 1] * width + cells[:, 0]
    # By cell and, within a cell, by nearness: one sort of one number is five times as fast as lexsort.
    order_of_cells = np.argsort(cell + nearness / (nearness.max(initial=0) + 1), kind="stable")
    chosen = order_of_cells[np.diff(cell[order_of_cells], prepend=-1) > 0]
    cell, car = cell[chosen], car[chosen]

    relative = xyz[:, 2] * focal_reference / (focal * TYPICAL_DEPTH)
    depth, depth_noise = _depth_target(DEPTH[recipe.depth], relative, noise, car)
    size_cue = _depth_target(DEPTH[HEIGHT], relative, noise, car) if recipe.height_cue else ()
    offset = xyz[car, :2] / POSITION_UNIT if recipe.position == "regressed" else offset[chosen]
    yaw_pitch_roll = angles_of(rotation)[:, [1, 0, 2]] + [0, 0, np.pi]
    if recipe.yaw == "allocentric":
        yaw_pitch_roll[:, 0] -= np.arctan2(xyz[:, 0], xyz[:, 2])
    if recipe.rotation == "quaternion":
        turn = quaternion_of(yaw_pitch_roll[:, [1, 0, 2]])
    else:
        turn = np.stack([np.sin(yaw_pitch_roll), np.cos(yaw_pitch_roll)], axis=2).reshape(-1, 6)
        turn = turn[:, : heads(recipe)["rotation"]]
    float32 = np.float32
    return Targets(
        heatmap,
        ignore,
        peak,
        weight[order].astype(float32),
        cell,
        (weight[car] * np.exp(-nearness[chosen] / 2)).astype(float32),
        offset.astype(float32),
        depth,
        turn.astype(float32)[car],
        depth_noise,
        *size_cue,
    )


def _depth_target(
    parametrisation: tuple, relative: np.ndarray, noise: np.ndarray, car: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Of each cell's car: targets (N, 1) and the Laplace scales of their errors, from the standard deviations
    of log z; None where all are 0."""
    to_target = parametrisation[0]
    target = to_target(relative).astype(np.float32)[car, None]
    if not noise.any():
        return target, None
    # A Laplace scale is the standard deviation over √2; the slope carries it from log z to the target.
    step = 1e-4
    slope = np.abs(to_target(relative * np.exp(step)) - to_target(relative * np.exp(-step))) / (2 * step)
    return target, (noise * slope / np.sqrt(2)).astype(np.float32)[car, None]


def _bumps(
    photo: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    sigma: np.ndarray,
    sure: np.ndarray,
    shape: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Heat maps of the sure cars and ignore maps of the others, both of `shape` (B, height, width)."""
    _, height, width = shape
    heatmap, ignore = np.zeros(shape, np.float32), np.zeros(shape, bool)
    reach = np.minimum((3 * sigma).astype(int) + 1, max(height, width))
    most = int(reach.max(initial=0))
    # A Gaussian is the product of its row and its column: one call gives those of all cars.
    squares = np.arange(-most, most + 1, dtype=np.float32) ** 2
    profiles = np.exp(squares * (-0.5 / sigma[:, None] ** 2).astype(np.float32))
    top, left = np.maximum(row - reach, 0), np.maximum(column - reach, 0)
    bottom, right = np.minimum(row + reach + 1, height), np.minimum(column + reach + 1, width)
    # Where in its profile a car's rows and columns begin.
    down, across = most + top - row, most + left - column
    bounds = (photo, top, bottom, left, right, down, across, sure)
    for car, profile in zip(zip(*(a.tolist() for a in bounds), strict=True), profiles, strict=True):
        picture, y0, y1, x0, x1, y, x, is_sure = car
        bump = profile[y : y + y1 - y0, None] * profile[x : x + x1 - x0]
        if is_sure:
            view = heatmap[picture, y0:y1, x0:x1]
            np.maximum(view, bump, out=view)  # never the sum: above 1 the focal loss explodes
        else:
            ignore[picture, y0:y1, x0:x1] |= bump > SURE_IGNORE
    return heatmap, ignore


def padded(targets: dict, cars: int, recipe: Recipe, noisy: bool) -> dict:
    """The same targets with as many peaks and cells as so many cars, at least those that there are, can have;
    those added have no weight. noisy: with the labels' noise, even if there is none. What a GPU replays needs
    one shape. targets: arrays and, of maps, tensors.

    The added ones are spread over the maps: gradients that meet in a cell are summed one after the other.
    """
    places, cells = targets["heatmap"].numel(), cars * (2 * recipe.regression_radius + 1) ** 2
    result = dict(targets)
    if noisy:
        none = np.zeros((len(targets["cell"]), 1), np.float32)
        result = {f"{name}_noise": none for name in ("depth", "height") if name in targets} | result
    for name in set(result) - {"heatmap", "ignore"}:
        own = result[name]
        more = (cars if name in ("peak", "peak_weight") else cells) - len(own)
        added = (
            np.linspace(0, places - 1, more) if name in ("peak", "cell") else np.zeros((more, *own.shape[1:]))
        )
        result[name] = np.concatenate([own, added.astype(own.dtype)])
    return result


def split(
    pictures: torch.Tensor, targets: dict[str, torch.Tensor], count: int
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """A collated batch in `count` parts of whole pictures, cells counted through each part."""
    if count == 1:
        return [(pictures, targets)]
    area = targets["heatmap"][0].numel()
    bounds = [len(pictures) * part // count for part in range(count + 1)]
    parts = []
    for first, last in itertools.pairwise(bounds):
        own = {name: targets[name][first:last] for name in ("heatmap", "ignore")}
        for cells in ("peak", "cell"):
            here = (targets[cells] >= first * area) & (targets[cells] < last * area)
            own[cells] = targets[cells][here] - first * area
            rest = ["peak_weight"] if cells == "peak" else set(targets) - {*own, "peak", "peak_weight"}
            own |= {name: targets[name][here] for name in rest}
        parts.append((pictures[first:last], own))
    return parts


def gather(output: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, H, W) and cells counted through the batch → (N, C); what is (N, C) already stays so."""
    if output.dim() == 2:
        return output
    height, width = output.shape[2:]
    return output[cell // (height * width), :, cell // width % height, cell % width]


def poses_of(maps: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Whole maps by head → what `decode` asks for cells: for networks that give maps, as exported ones do."""
    return lambda cells: {name: gather(each, cells) for name, each in maps.items() if name != "heatmap"}


def peaks(score: torch.Tensor, threshold: float, most: int) -> torch.Tensor:
    """Maps (B, height, width) → cells, counted through the batch, of at least that score and no less than
    their eight neighbours: of each picture the `most` highest, the highest first."""
    edged = F.pad(score, (1, 1, 1, 1), value=-torch.inf)
    inner, before, after = slice(1, -1), slice(-2), slice(2, None)
    highest = score >= threshold
    for rows, columns in ((before, inner), (after, inner), (inner, before), (inner, after)):
        highest &= score >= edged[:, rows, columns]
    # Few cells come so far: the corners are looked up.
    picture, row, column = torch.nonzero(highest, as_tuple=True)
    step = torch.arange(3, device=score.device)
    around = edged[picture[:, None, None], row[:, None, None] + step[:, None], column[:, None, None] + step]
    value = around[:, 1, 1]
    highest = (around <= value[:, None, None]).flatten(1).all(1)
    picture, row, column, value = (a[highest] for a in (picture, row, column, value))
    order = torch.argsort(-value, stable=True)
    order = order[torch.argsort(picture[order], stable=True)]
    picture = picture[order]
    rank = torch.arange(len(picture), device=score.device) - torch.searchsorted(picture, picture)
    cell = (picture * score.shape[1] + row[order]) * score.shape[2] + column[order]
    return cell[rank < most]


def can_pool(recipe: Recipe) -> bool:
    """Whether a centre's neighbours learn depth, its uncertainty and where the centre is."""
    return recipe.regression_radius > 0 and recipe.depth_uncertainty and recipe.position == "ray"


def pool_depths(
    poses: Callable[[torch.Tensor], dict[str, torch.Tensor]], cells: torch.Tensor, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Poses at cells, their depths by the neighbours too: the eight cells around a centre learn its depth as
    well, each says how sure it is, and the surest is not always the one in the middle.

    poses, cells: as in `decode`, of networks whose recipes `can_pool`; size: width, height of the maps. A
    neighbour counts by its precision, by its weight in training, and by whether it puts the centre where the
    cell itself does, so means the same car.
    """
    width, height = size
    places, inside = around(cells, height, width)
    each = {name: value.unflatten(0, places.shape) for name, value in poses(places.flatten()).items()}
    place = torch.stack([places % width, places // width % height], dim=2)
    middle, own = 4, each["offset"]
    centre = place - place[:, middle, None] + own
    apart = (centre - centre[:, middle, None]).square().sum(2)
    log_weight = -own.square().sum(2) / 2 - apart / (2 * SAME_CENTRE**2)
    log_weight = log_weight.masked_fill(~inside, -torch.inf)
    found = {name: value[:, middle] for name, value in each.items()}
    for name in {"depth", "height"} & each.keys():
        weight = torch.softmax(log_weight - 2 * each[name][..., 1], dim=1)  # the log of a precision
        found[name] = (weight[..., None] * each[name]).sum(1)
    return found


def decode(
    heatmap: torch.Tensor,
    poses: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    intrinsics: np.ndarray,
    focal_reference: float,
    recipe: Recipe,
    threshold: float,
    most: int = 64,
    pool_depth: bool = False,
) -> dict[str, np.ndarray]:
    """What a network makes of a batch → its cars, in the camera frame of `intrinsics`.

    heatmap (B, 1, height, width): probabilities; poses: cells (N,), counted through the batch → (N, channels)
    of each other head; intrinsics 3×3 of the maps; threshold: lowest score kept; most: cars per picture at
    most; pool_depth: by `pool_depths`, for a recipe that `can_pool`.
    Returns arrays over all cars: picture (index in the batch), score, xyz (N, 3), angles (N, 3) pitch yaw
    roll, depth_sigma (standard deviation of log z).
    """
    height, width = heatmap.shape[2:]
    cell = peaks(heatmap[:, 0], threshold, most)
    score = heatmap.reshape(-1)[cell].double().cpu().numpy()
    found = pool_depths(poses, cell, (width, height)) if pool_depth else poses(cell)
    found = {name: value.double().cpu().numpy() for name, value in found.items()}
    picture, position = np.divmod(cell.cpu().numpy(), height * width)

    scale = TYPICAL_DEPTH * camera.focal(intrinsics) / focal_reference
    z, sigma = _depth(found["depth"], DEPTH[recipe.depth][1], scale)
    if recipe.height_cue:
        z, sigma = _merged(z, sigma, *_depth(found["height"], DEPTH[HEIGHT][1], scale))
    if recipe.position == "regressed":
        xyz = np.column_stack([found["offset"] * POSITION_UNIT, z])
    else:
        uv = np.column_stack([position % width, position // width]) + found["offset"]
        xyz = camera.backproject(intrinsics, uv, z) if len(z) else np.empty((0, 3))
    pitch, yaw, roll = _angles(found["rotation"], recipe).T
    if recipe.yaw == "allocentric":
        yaw = yaw + np.arctan2(xyz[:, 0], xyz[:, 2])
    if recipe.pitch_roll == "constant":
        pitch = np.full_like(yaw, recipe.constant_pitch)
        roll = np.full_like(yaw, recipe.constant_roll + np.pi)
    turn = matrix_of(np.column_stack([pitch, yaw, roll - np.pi]))
    return {
        "picture": picture,
        "score": score,
        "xyz": xyz,
        "angles": angles_of(turn),
        "depth_sigma": sigma,
    }


def _depth(output: np.ndarray, from_target, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1 or 2) outputs → z in metres and the standard deviation of log z (NaN where none is predicted)."""
    value = output[:, 0]
    z = np.clip(from_target(value) * scale, 0.5, 5000)
    if output.shape[1] == 1:
        return z, np.full(len(z), np.nan)
    # A Laplace scale b of the output has standard deviation √2·b; the slope carries it to log z.
    step = 1e-4
    slope = np.abs(np.log(from_target(value + step) / from_target(value - step))) / (2 * step)
    sigma = np.sqrt(2) * np.exp(np.clip(output[:, 1], -10, 5)) * slope
    return z, np.where(slope > 0, sigma, UNKNOWN)


def _merged(z, sigma, other, other_sigma):
    """Two depths of one network, the surer one counting more; their errors are taken to go together."""
    unknown = np.isnan(sigma)
    weight = 1 / np.where(unknown, 1.0, np.maximum(sigma, 1e-6)) ** 2
    other_weight = 1 / np.where(unknown, 1.0, np.maximum(other_sigma, 1e-6)) ** 2
    share = weight / (weight + other_weight)
    return np.exp(share * np.log(z) + (1 - share) * np.log(other)), share * sigma + (1 - share) * other_sigma


def _angles(output: np.ndarray, recipe: Recipe) -> np.ndarray:
    """(N, C) outputs of the rotation head → (N, 3) pitch, yaw, roll + π; zero what it does not predict."""
    if recipe.rotation == "quaternion":
        level = np.where(np.abs(output).sum(axis=1, keepdims=True) > 0, output, [0.0, 0.0, 0.0, 1.0])
        return angles_from_quaternion(level)
    result = np.zeros((len(output), 3))
    turns = np.arctan2(output[:, 0::2], output[:, 1::2])
    result[:, [1, 0, 2][: turns.shape[1]]] = turns
    return result
