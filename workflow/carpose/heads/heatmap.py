"""The heat map: where the centres of cars are. One logit in every cell, learnt everywhere."""

import numpy as np
import torch
import torch.nn.functional as F

from carpose.config.train_config import TrainConfig

from .head import Cars, Head, Tensors

CAR_HEIGHT = 1.5  # metres: scales the peaks
IGNORE_THRESHOLD = 0.1  # of a peak: the part of an unsure car's peak that is left out of the loss


class Heatmap(Head):
    """Gaussians as wide as cars appear, with peaks of exactly 1."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        super().__init__(name, channels, train_config)
        self.radius = train_config.radius
        self.criterion = {"focal": focal_loss, "bce": bce_loss}[train_config.heatmap_loss]

    def draw(self, cars: Cars, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Maps of `shape` (B, height, width): the heat map of positive cars, float32, and the cells of
        ignored ones, which are left out of the loss, bool. A peak is cut off beyond three σ."""
        _, height, width = shape
        heatmap, ignore = np.zeros(shape, np.float32), np.zeros(shape, bool)
        sigma = np.maximum(self.radius * CAR_HEIGHT * cars.focal / cars.xyz[:, 2], 0.7)  # (N,) cells
        reach = np.minimum((3 * sigma).astype(int) + 1, max(height, width))
        widest = int(reach.max(initial=0))
        # A Gaussian is the product of its row and its column: one call gives those of all cars.
        squares = np.arange(-widest, widest + 1, dtype=np.float32) ** 2
        profiles = np.exp(squares * (-0.5 / sigma[:, None] ** 2).astype(np.float32))
        top, left = np.maximum(cars.row - reach, 0), np.maximum(cars.column - reach, 0)
        bottom, right = np.minimum(cars.row + reach + 1, height), np.minimum(cars.column + reach + 1, width)
        # Where in its profile a car's rows and columns begin.
        down, across = widest + top - cars.row, widest + left - cars.column
        bounds = (cars.photo, top, bottom, left, right, down, across, cars.weight > 0)
        for car, profile in zip(zip(*(a.tolist() for a in bounds), strict=True), profiles, strict=True):
            picture, y0, y1, x0, x1, y, x, is_positive = car
            peak = profile[y : y + y1 - y0, None] * profile[x : x + x1 - x0]
            if is_positive:
                view = heatmap[picture, y0:y1, x0:x1]
                np.maximum(view, peak, out=view)  # never the sum: above 1 the focal loss explodes
            else:
                ignore[picture, y0:y1, x0:x1] |= peak > IGNORE_THRESHOLD
        return heatmap, ignore

    def loss(self, output: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
        """output (B, 1, H, W) logits."""
        return self.criterion(output, targets, totals)


def focal_loss(logits: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
    """CornerNet's focal loss (Law & Deng 2018, eq. 1; α = 2, β = 4) over the number of cars.

    logits (B, 1, H, W). Cells of the ignore map count for nothing; a car counts by its weight.
    """
    logits = logits[:, 0].float()
    probability = logits.sigmoid()
    away = (1 - targets["heatmap"]).square().square() * ~targets["ignore"]
    negative = (probability.square() * F.softplus(logits) * away).sum()
    at = logits.reshape(-1).index_select(0, targets["peak"])
    positive = ((1 - at.sigmoid()).square() * F.softplus(-at) * targets["peak_weight"]).sum()
    return (positive + negative) / totals["cars"]


def bce_loss(logits: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
    """Binary cross-entropy with the soft heat map, positives and negatives balanced."""
    logits = logits[:, 0].float()
    heat = targets["heatmap"]
    loss = F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * ~targets["ignore"]
    positive = (loss * heat).sum() / totals["positive"]
    negative = (loss * (1 - heat)).sum() / totals["negative"]
    return positive + negative * 10


def peaks(score: torch.Tensor, threshold: float, limit: int) -> torch.Tensor:
    """Maps (B, height, width) → cells, counted through the batch, of at least that score and no less than
    their eight neighbours: of each picture the `limit` highest, the highest first."""
    edged = F.pad(score, (1, 1, 1, 1), value=-torch.inf)
    inner, before, after = slice(1, -1), slice(-2), slice(2, None)
    highest = score >= threshold
    for rows, columns in ((before, inner), (after, inner), (inner, before), (inner, after)):
        highest &= score >= edged[:, rows, columns]
    # Few cells are left: their corners are looked up.
    picture, row, column = torch.nonzero(highest, as_tuple=True)
    step = torch.arange(3, device=score.device)
    nine = edged[picture[:, None, None], row[:, None, None] + step[:, None], column[:, None, None] + step]
    value = nine[:, 1, 1]
    highest = (nine <= value[:, None, None]).flatten(1).all(1)
    picture, row, column, value = (a[highest] for a in (picture, row, column, value))
    order = torch.argsort(-value, stable=True)
    order = order[torch.argsort(picture[order], stable=True)]
    picture = picture[order]
    rank = torch.arange(len(picture), device=score.device) - torch.searchsorted(picture, picture)
    cell = (picture * score.shape[1] + row[order]) * score.shape[2] + column[order]
    return cell[rank < limit]
