"""The heat map of car centres: one logit per cell, learnt at every cell."""

import numpy as np
import torch
import torch.nn.functional as F

from carpose.config.train_config import TrainConfig

from .head import Cars, Head, Tensors

CAR_HEIGHT = 1.5  # metres; the peaks' σ is a fraction of its projection
IGNORE_THRESHOLD = 0.1  # cells where an ignored car's Gaussian is above this are left out of the loss


class Heatmap(Head):
    """One Gaussian per car, with a peak of exactly 1 and a σ proportional to the car's apparent size."""

    def __init__(self, name: str, channels: int, train_config: TrainConfig):
        super().__init__(name, channels, train_config)
        self.radius = train_config.radius
        self.criterion = {"focal": focal_loss, "bce": bce_loss}[train_config.heatmap_loss]

    def draw(self, cars: Cars, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Draw cars on maps of `shape` (B, height, width): heat map of cars with positive weight (float32)
        and ignore map (bool): cells near cars of weight 0, left out of the loss. Gaussians end at 3σ."""
        _, height, width = shape
        heatmap, ignore = np.zeros(shape, np.float32), np.zeros(shape, bool)
        sigma = np.maximum(self.radius * CAR_HEIGHT * cars.focal / cars.xyz[:, 2], 0.7)  # (N,) cells
        reach = np.minimum((3 * sigma).astype(int) + 1, max(height, width))
        widest = int(reach.max(initial=0))
        # A Gaussian is the product of a row and a column profile: one call computes those of all cars.
        squares = np.arange(-widest, widest + 1, dtype=np.float32) ** 2
        profiles = np.exp(squares * (-0.5 / sigma[:, None] ** 2).astype(np.float32))
        top, left = np.maximum(cars.row - reach, 0), np.maximum(cars.column - reach, 0)
        bottom, right = np.minimum(cars.row + reach + 1, height), np.minimum(cars.column + reach + 1, width)
        # Index in the profile of each car's first row and column.
        down, across = widest + top - cars.row, widest + left - cars.column
        bounds = (cars.photo, top, bottom, left, right, down, across, cars.weight > 0)
        for car, profile in zip(zip(*(a.tolist() for a in bounds), strict=True), profiles, strict=True):
            photo, y0, y1, x0, x1, y, x, is_positive = car
            peak = profile[y : y + y1 - y0, None] * profile[x : x + x1 - x0]
            if is_positive:
                window = heatmap[photo, y0:y1, x0:x1]
                np.maximum(window, peak, out=window)  # not the sum: the focal loss needs values up to 1
            else:
                ignore[photo, y0:y1, x0:x1] |= peak > IGNORE_THRESHOLD
        return heatmap, ignore

    def loss(self, output: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
        """The loss `heatmap_loss` of the training configuration; output (B, 1, H, W): logits."""
        return self.criterion(output, targets, totals)


def focal_loss(logits: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
    """CornerNet's focal loss (Law & Deng 2018, eq. 1; also CenterNet, Zhou et al. 2019), α = 2, β = 4.

    With p = sigmoid(logit) and the heat map y: the sum over the centres of (1 − p)²·(−log p), times the car's
    weight, plus the sum over all cells of (1 − y)⁴·p²·(−log(1 − p)), divided by the sum of the cars' weights.
    Ignored cells are left out of the second sum. logits (B, 1, H, W).
    """
    logits = logits[:, 0].float()
    probability = logits.sigmoid()
    negative_weight = (1 - targets["heatmap"]).square().square() * ~targets["ignore"]
    negative = (probability.square() * F.softplus(logits) * negative_weight).sum()
    peak_logits = logits.reshape(-1).index_select(0, targets["peak"])
    positive = (
        (1 - peak_logits.sigmoid()).square() * F.softplus(-peak_logits) * targets["peak_weight"]
    ).sum()
    return (positive + negative) / totals["cars"]


def bce_loss(logits: torch.Tensor, targets: Tensors, totals: Tensors) -> torch.Tensor:
    """Binary cross-entropy with the heat map as soft target: the mean over the positives plus ten times the
    mean over the negatives. Ignored cells are left out. logits (B, 1, H, W)."""
    logits = logits[:, 0].float()
    heat = targets["heatmap"]
    loss = F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * ~targets["ignore"]
    positive = (loss * heat).sum() / totals["positive"]
    negative = (loss * (1 - heat)).sum() / totals["negative"]
    return positive + negative * 10


def peaks(score: torch.Tensor, threshold: float, limit: int) -> torch.Tensor:
    """Scores (B, height, width) → cell indices of the local maxima (3×3) of at least `threshold`: of each
    photo the `limit` highest, in descending order."""
    padded = F.pad(score, (1, 1, 1, 1), value=-torch.inf)
    inner, before, after = slice(1, -1), slice(-2), slice(2, None)
    highest = score >= threshold
    for rows, columns in ((before, inner), (after, inner), (inner, before), (inner, after)):
        highest &= score >= padded[:, rows, columns]
    # Few cells are left; only at these are the diagonal neighbours compared.
    photo, row, column = torch.nonzero(highest, as_tuple=True)
    step = torch.arange(3, device=score.device)
    neighbourhood = padded[
        photo[:, None, None], row[:, None, None] + step[:, None], column[:, None, None] + step
    ]
    value = neighbourhood[:, 1, 1]
    highest = (neighbourhood <= value[:, None, None]).flatten(1).all(1)
    photo, row, column, value = (a[highest] for a in (photo, row, column, value))
    order = torch.argsort(-value, stable=True)
    order = order[torch.argsort(photo[order], stable=True)]
    photo = photo[order]
    rank = torch.arange(len(photo), device=score.device) - torch.searchsorted(photo, photo)
    cell = (photo * score.shape[1] + row[order]) * score.shape[2] + column[order]
    return cell[rank < limit]
