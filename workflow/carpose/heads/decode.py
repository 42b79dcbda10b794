"""Output maps → cars: peaks of the heat map, depths pooled and merged, positions, and what else heads say."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from models.layers import DENSE, around

from .head import Detections, Head, Tensors, make_heads
from .heatmap import peaks

MOST = 64  # cars per picture
SAME_CENTRE = 0.3  # cells: how far apart neighbouring cells put the centre of one car

Poses = Callable[[torch.Tensor], Tensors]  # cells (N,), counted through the batch → (N, channels) by head


def decode(
    heatmap: torch.Tensor,
    poses: Poses,
    intrinsics: np.ndarray,
    focal_reference: float,
    train_config: TrainConfig,
    threshold: float,
) -> dict[str, np.ndarray]:
    """What a network makes of a batch → its cars, in the camera frame of `intrinsics`.

    heatmap (B, 1, height, width): probabilities; poses: what all other heads say at cells; intrinsics 3×3 of
    the maps; threshold: lowest score kept.
    Returns arrays over all cars: picture (index in the batch), score, xyz (N, 3), depth_sigma (standard
    deviation of log z), and the columns of the heads, such as angles (N, 3) pitch yaw roll.
    """
    height, width = heatmap.shape[2:]
    heads = {name: head for name, head in make_heads(train_config).items() if name != DENSE}
    cell = peaks(heatmap[:, 0], threshold, MOST)
    score = heatmap.reshape(-1)[cell].double().cpu().numpy()
    can_pool = not heads["offset"].regressed  # else the neighbours do not say where the centre is
    raw = pool(poses, cell, (width, height), heads) if can_pool else poses(cell)
    outputs = {name: value.double().cpu().numpy() for name, value in raw.items()}
    picture, place = np.divmod(cell.cpu().numpy(), height * width)
    place = np.column_stack([place % width, place // width])

    detections = Detections(picture, place, intrinsics, focal_reference)
    estimates = [head.depth(outputs[name], detections) for name, head in heads.items()]
    detections.z, sigma = merge([estimate for estimate in estimates if estimate is not None])
    detections.xyz = heads["offset"].position(outputs["offset"], detections)
    cars = {"picture": picture, "score": score, "xyz": detections.xyz, "depth_sigma": sigma}
    for name, head in heads.items():
        cars |= head.columns(outputs[name], detections)
    return cars


def pool(poses: Poses, cells: torch.Tensor, size: tuple[int, int], heads: dict[str, Head]) -> Tensors:
    """Outputs at cells, each head's by its rule for the nine cells about the centre; heads: all but the heat
    map; size: width, height.

    A neighbour counts by its weight in training and by whether it puts the centre where the cell itself does,
    so means the same car.
    """
    width, height = size
    places, inside = around(cells, height, width)
    outputs = {name: value.unflatten(0, places.shape) for name, value in poses(places.flatten()).items()}
    place = torch.stack([places % width, places // width % height], dim=2)
    middle, offset = 4, outputs["offset"]
    centre = place - place[:, middle, None] + offset
    apart = (centre - centre[:, middle, None]).square().sum(2)
    log_weight = -offset.square().sum(2) / 2 - apart / (2 * SAME_CENTRE**2)
    log_weight = log_weight.masked_fill(~inside, -torch.inf)
    return {name: head.pooled(outputs[name], log_weight) for name, head in heads.items()}


def merge(estimates: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Depths z (N,) and σ (N,) of log z of one network as one, each with the weight 1/σ²; their errors are
    taken to go together."""
    if len(estimates) == 1:
        return estimates[0]
    weights = [1 / np.maximum(sigma, 1e-6) ** 2 for _, sigma in estimates]
    total = sum(weights)
    shares = [weight / total for weight in weights[:-1]]
    shares.append(1 - sum(shares))
    log_z = sum(share * np.log(z) for share, (z, _) in zip(shares, estimates, strict=True))
    return np.exp(log_z), sum(share * sigma for share, (_, sigma) in zip(shares, estimates, strict=True))
