"""Cars → training targets, and output maps → cars: two inverse functions side by side.

Frames: everything here is in the *network's* camera (after carpose.augment) and in cells of the output
maps; `intrinsics` are those of the output maps (cells(stride)·view·K).
Heads: heatmap (1 logit), offset (2, cells), depth (1, and 1 log scale with uncertainty),
rotation (6: sin and cos of yaw, of pitch, and of roll + π, none of which jumps at ±π).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from . import camera
from .recipe import Recipe
from .rotation import angles as angles_of
from .rotation import matrix as matrix_of

STRIDE = 4
CAR_HEIGHT = 1.5  # metres: only scales the heat map's peaks
TYPICAL_DEPTH = 35.0  # metres at the reference focal length: centres the depth head's output on zero
SURE_IGNORE = 0.1  # of a peak: the part of an unsure car's bump that is left out of the loss


def heads(recipe: Recipe) -> dict[str, int]:
    """Output channels by head, as models.build_model takes them."""
    return {"heatmap": 1, "offset": 2, "depth": 2 if recipe.depth_uncertainty else 1, "rotation": 6}


# Depth parametrisations: (z relative to TYPICAL_DEPTH and focal length → target, target → relative z).
DEPTH = {
    "log": (np.log, np.exp),
    "direct": (lambda z: z - 1, lambda t: np.maximum(t + 1, 1e-2)),
    "inverse": (lambda z: 1 / z - 1, lambda t: 1 / np.maximum(t + 1, 1e-2)),
    "sigmoid": (lambda z: -np.log(z), lambda t: np.exp(-np.clip(t, -20, 20))),  # z = 1/σ(t) − 1
}


@dataclass
class Targets:
    """Targets of one picture. `cell` (N,) is row·width + column; a row of the others belongs to it."""

    heatmap: np.ndarray  # (height, width) float32, peaks of exactly 1
    ignore: np.ndarray  # (height, width) bool: cells that are neither positive nor negative
    peak: np.ndarray  # (P,) cells of the centres
    peak_weight: np.ndarray  # (P,) probability that the car is there
    cell: np.ndarray  # (N,) cells that learn a car's pose
    weight: np.ndarray  # (N,)
    offset: np.ndarray  # (N, 2) cells
    depth: np.ndarray  # (N, 1)
    depth_noise: np.ndarray  # (N, 1) Laplace scale of the label's own error, 0 for true labels
    rotation: np.ndarray  # (N, 6)


def encode(
    xyz: np.ndarray,
    rotation: np.ndarray,
    weight: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    focal_reference: float,
    recipe: Recipe,
    noise: np.ndarray | None = None,
) -> Targets:
    """Cars of one picture → targets.

    xyz (N, 3) metres; rotation (N, 3, 3); weight (N,): 1 = labelled, 0 … 1 = pseudo label, 0 = unsure;
    size: width, height of the maps; focal_reference: focal length of the nominal maps in cells;
    noise (N,): standard deviation of a label's log z (default: 0).
    Cars whose centre is outside the maps, or nearer than half a metre, have no target.
    """
    width, height = size
    noise = np.zeros(len(xyz)) if noise is None else noise
    uv = camera.project(intrinsics, np.where(xyz[:, 2:] > 0.5, xyz, [[0, 0, 1.0]]))
    column, row = np.floor(uv + 0.5).astype(np.int64).T
    seen = (xyz[:, 2] > 0.5) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    xyz, rotation, weight, noise = (a[seen] for a in (xyz, rotation, weight, noise))
    uv, column, row = (a[seen] for a in (uv, column, row))
    focal = camera.focal(intrinsics)
    sigma = np.maximum(recipe.radius * CAR_HEIGHT * focal / xyz[:, 2], 0.7)

    sure = weight > 0
    heatmap, ignore = _bumps(column, row, sigma, sure, size)
    xyz, rotation, weight, noise = (a[sure] for a in (xyz, rotation, weight, noise))
    uv, column, row = (a[sure] for a in (uv, column, row))
    peak, order = np.unique(row * width + column, return_index=True)
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
    cell = cells[:, 1] * width + cells[:, 0]
    order_of_cells = np.lexsort([xyz[car, 2], nearness, cell])
    chosen = order_of_cells[np.diff(cell[order_of_cells], prepend=-1) > 0]
    cell, car = cell[chosen], car[chosen]

    to_target = DEPTH[recipe.depth][0]
    relative = xyz[car, 2] * focal_reference / (focal * TYPICAL_DEPTH)
    # A Laplace scale is the standard deviation over √2; the slope carries it from log z to the target.
    step = 1e-4
    slope = np.abs(to_target(relative * np.exp(step)) - to_target(relative * np.exp(-step))) / (2 * step)
    depth_noise = noise[car] * slope / np.sqrt(2)
    yaw_pitch_roll = angles_of(rotation)[:, [1, 0, 2]] + [0, 0, np.pi]
    if recipe.yaw == "allocentric":
        yaw_pitch_roll[:, 0] -= np.arctan2(xyz[:, 0], xyz[:, 2])
    turn = np.stack([np.sin(yaw_pitch_roll), np.cos(yaw_pitch_roll)], axis=2).reshape(-1, 6)
    float32 = np.float32
    return Targets(
        heatmap,
        ignore,
        peak,
        weight[order].astype(float32),
        cell,
        (weight[car] * np.exp(-nearness[chosen] / 2)).astype(float32),
        offset[chosen].astype(float32),
        to_target(relative)[:, None].astype(float32),
        depth_noise[:, None].astype(float32),
        turn[car].astype(float32),
    )


def _bumps(
    column: np.ndarray, row: np.ndarray, sigma: np.ndarray, sure: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Heat map of the sure cars and ignore map of the others, both (height, width)."""
    width, height = size
    heatmap, ignore = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    reach = np.minimum((3 * sigma).astype(int) + 1, max(size))
    most = int(reach.max(initial=0))
    # A Gaussian is the product of its row and its column: one call gives those of all cars.
    profiles = np.exp(np.arange(-most, most + 1) ** 2 / (-2 * sigma[:, None] ** 2)).astype(np.float32)
    cars = zip(column.tolist(), row.tolist(), reach.tolist(), sure.tolist(), profiles, strict=True)
    for x, y, r, is_sure, profile in cars:
        top, bottom, left, right = max(y - r, 0), min(y + r + 1, height), max(x - r, 0), min(x + r + 1, width)
        across = profile[most - x + left : most - x + right]
        bump = profile[most - y + top : most - y + bottom, None] * across
        if is_sure:
            view = heatmap[top:bottom, left:right]
            np.maximum(view, bump, out=view)  # never the sum: above 1 the focal loss explodes
        else:
            ignore[top:bottom, left:right] |= bump > SURE_IGNORE
    return heatmap, ignore


def collate(targets: list[Targets]) -> dict[str, torch.Tensor]:
    """Stack a batch: maps are stacked, cells are counted through the whole batch."""
    area = targets[0].heatmap.size
    flat = {
        name: np.concatenate([getattr(t, name) for t in targets])
        for name in ("peak_weight", "weight", "offset", "depth", "depth_noise", "rotation")
    }
    for name in ("peak", "cell"):
        flat[name] = np.concatenate([getattr(t, name) + i * area for i, t in enumerate(targets)])
    for name in ("heatmap", "ignore"):
        flat[name] = np.stack([getattr(t, name) for t in targets])
    return {name: torch.from_numpy(array) for name, array in flat.items()}


def gather(output: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) and cells counted through the batch → (N, C)."""
    return output.permute(0, 2, 3, 1).reshape(-1, output.shape[1])[cell]


def decode(
    maps: dict[str, torch.Tensor],
    intrinsics: np.ndarray,
    focal_reference: float,
    recipe: Recipe,
    threshold: float,
    most: int = 64,
) -> dict[str, np.ndarray]:
    """Output maps of a batch → its cars, in the camera frame of `intrinsics`.

    maps: heatmap already as probability; intrinsics 3×3 of the output maps; threshold: lowest score kept;
    most: cars per picture at most. Returns arrays over all cars: picture (index in the batch), score,
    xyz (N, 3), angles (N, 3) pitch yaw roll, depth_sigma (standard deviation of log z).
    """
    score = maps["heatmap"][:, 0]
    batch, height, width = score.shape
    peaks = torch.where(F.max_pool2d(score, 3, 1, 1) == score, score, score.new_zeros(()))
    best, flat = peaks.reshape(batch, -1).topk(min(most, height * width))
    picture, rank = torch.nonzero(best >= threshold, as_tuple=True)
    position = flat[picture, rank]
    cell = picture * height * width + position
    score = best[picture, rank].double().cpu().numpy()
    found = {
        name: gather(maps[name], cell).double().cpu().numpy() for name in ("offset", "depth", "rotation")
    }
    position = position.cpu().numpy()
    uv = np.column_stack([position % width, position // width]) + found["offset"]

    from_target = DEPTH[recipe.depth][1]
    scale = TYPICAL_DEPTH * camera.focal(intrinsics) / focal_reference
    output = found["depth"][:, 0]
    z = np.clip(from_target(output) * scale, 0.5, 5000)
    sigma = np.full(len(z), np.nan)
    if found["depth"].shape[1] > 1:
        # A Laplace scale b of the output has standard deviation √2·b; the slope carries it to log z.
        step = 1e-4
        slope = np.abs(np.log(from_target(output + step) / from_target(output - step))) / (2 * step)
        sigma = np.sqrt(2) * np.exp(np.clip(found["depth"][:, 1], -10, 5)) * slope

    xyz = camera.backproject(intrinsics, uv, z) if len(z) else np.empty((0, 3))
    yaw, pitch, roll = np.arctan2(found["rotation"][:, 0::2], found["rotation"][:, 1::2]).T
    if recipe.yaw == "allocentric":
        yaw = yaw + np.arctan2(xyz[:, 0], xyz[:, 2])
    turn = matrix_of(np.column_stack([pitch, yaw, roll - np.pi]))
    return {
        "picture": picture.cpu().numpy(),
        "score": score,
        "xyz": xyz,
        "angles": angles_of(turn),
        "depth_sigma": sigma,
    }
