"""Output maps → cars: peaks of the heat map, pooled and merged depths, positions, columns of other heads."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from models.layers import HEATMAP, around

from .head import Detections, Head, Tensors, make_heads
from .heatmap import peaks
from .offset import Offset

CENTRE_SIGMA = 0.3  # cells; σ of the distance between the centres that two cells of one car predict

# Cell indices (N,) → the outputs (N, channels) of all heads but the heat map, by name.
OutputsAt = Callable[[torch.Tensor], Tensors]


def decode(
    heatmap: torch.Tensor,
    outputs_at: OutputsAt,
    intrinsics: np.ndarray,
    focal_reference: float,
    train_config: TrainConfig,
    threshold: float,
    max_cars: int,
) -> dict[str, np.ndarray]:
    """Decode a network's outputs for a batch into cars, in the camera frame of `intrinsics`.

    heatmap (B, 1, height, width): probabilities; outputs_at: a function that gives the outputs of all other
    heads at cells; intrinsics: 3×3, of the maps; focal_reference: focal length, in cells, of the maps of the
    view without augmentation; threshold: the lowest score of a car; max_cars: of a photo.
    Returns arrays over all N cars: photo (index in the batch), score, xyz (N, 3) in metres, depth_sigma
    (standard deviation of log z), and the heads' columns, such as angles (N, 3): pitch, yaw, roll in radians.
    """
    height, width = heatmap.shape[2:]
    heads = {name: head for name, head in make_heads(train_config).items() if name != HEATMAP}
    cell = peaks(heatmap[:, 0], threshold, max_cars)
    score = heatmap.reshape(-1)[cell].double().cpu().numpy()
    offset_head = cast(Offset, heads["offset"])
    can_pool = not offset_head.regressed  # pooling needs each cell's offset to the centre
    raw = pool(outputs_at, cell, (width, height), heads) if can_pool else outputs_at(cell)
    outputs = {name: value.double().cpu().numpy() for name, value in raw.items()}
    photo, cell_in_image = np.divmod(cell.cpu().numpy(), height * width)
    column_row = np.column_stack([cell_in_image % width, cell_in_image // width])

    detections = Detections(photo, column_row, intrinsics, focal_reference)
    estimates = [head.depth(outputs[name], detections) for name, head in heads.items()]
    detections.z, sigma = merge([estimate for estimate in estimates if estimate is not None])
    detections.xyz = offset_head.position(outputs["offset"], detections)
    cars = {"photo": photo, "score": score, "xyz": detections.xyz, "depth_sigma": sigma}
    for name, head in heads.items():
        cars |= head.columns(outputs[name], detections)
    return cars


def pool(
    outputs_at: OutputsAt, cells: torch.Tensor, size: tuple[int, int], heads: dict[str, Head]
) -> Tensors:
    """Outputs at cells (N,), pooled over the 3×3 cells around each by the rule of each head (`Head.pooled`).

    size: width, height of the maps; heads: all but the heat map.

    The weight of a neighbour is its weight in training times a Gaussian of the distance between the centres
    that it and the cell itself predict: a neighbour that predicts another centre belongs to another car.
    """
    width, height = size
    neighbours, inside = around(cells, height, width)
    raw = outputs_at(neighbours.flatten())
    outputs = {name: value.unflatten(0, neighbours.shape) for name, value in raw.items()}
    column_row = torch.stack([neighbours % width, neighbours // width % height], dim=2)
    centre_index, offset = 4, outputs["offset"]
    centre = column_row - column_row[:, centre_index, None] + offset
    distance2 = (centre - centre[:, centre_index, None]).square().sum(2)
    log_weight = -offset.square().sum(2) / 2 - distance2 / (2 * CENTRE_SIGMA**2)
    log_weight = log_weight.masked_fill(~inside, -torch.inf)
    return {name: head.pooled(outputs[name], log_weight) for name, head in heads.items()}


def merge(estimates: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Merge several estimates (z (N,), σ (N,) of log z) of one network's depths: means of log z and of σ with
    the weights 1/σ². σ does not shrink, because the estimates' errors are taken to be fully correlated."""
    if len(estimates) == 1:
        return estimates[0]
    precisions = [1 / np.maximum(sigma, 1e-6) ** 2 for _, sigma in estimates]
    total = sum(precisions)
    fractions = [precision / total for precision in precisions[:-1]]
    fractions.append(1 - sum(fractions))
    log_z = sum(fraction * np.log(z) for fraction, (z, _) in zip(fractions, estimates, strict=True))
    return np.exp(log_z), sum(
        fraction * sigma for fraction, (_, sigma) in zip(fractions, estimates, strict=True)
    )
