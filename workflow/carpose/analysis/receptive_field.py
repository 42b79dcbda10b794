"""How much of the picture one cell of the output maps sees, against the size of near cars.

Theoretical: what could matter at all. Effective: where 90 % of the gradient comes from (after Luo et al.
2016, "Understanding the Effective Receptive Field", who show that it is far smaller).
In: checkpoints, picture cache, labels. Out: a CSV table and a picture.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from . import analysis_plots, camera, cars, drawing, plots
from .cache import open_cache
from .checkpoint import load_checkpoint
from .data import Photos, View, network_input
from .files import atomic
from .recipe import Recipe

STRIP = (2048, 128)  # width, height of the picture on which the theoretical field is measured
MASS = 0.9  # of the gradient, across and down each
NEAR_QUANTILES = [0.01, 0.1, 0.5]  # of the labels' depth


def gradient(model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """(H, W): the mean over the batch of |∂ depth in the middle cell / ∂ input|, summed over channels."""
    inputs = inputs.detach().requires_grad_()
    depth = model(inputs)[-1]["depth"]
    depth[:, 0, depth.shape[2] // 2, depth.shape[3] // 2].sum().backward()
    return inputs.grad.abs().sum(dim=1).mean(dim=0).double().numpy()


def theoretical(model: nn.Module, channels: int) -> int:
    """Width in pixels of what can reach one cell, and height: all kernels are square. At most STRIP[0],
    which stands for the whole picture.

    Measured on a copy in which nothing cancels: positive weights, no normalisation, maxima as means. In
    double precision, as the edges get there by one path of a great many.
    """
    model = copy.deepcopy(model).double()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, nn.BatchNorm2d | nn.GroupNorm):
                # timm's batch norm holds its activation, which is as good as none for what is positive.
                setattr(parent, name, nn.Identity())
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0 if parameter.dim() == 1 else 1 / parameter[0].numel())
    field = gradient(model, torch.ones(1, channels, *STRIP[::-1], dtype=torch.double))
    return int(np.ptp(np.flatnonzero(field.any(axis=0)))) + 1


def effective(field: np.ndarray) -> tuple[int, int]:
    """Width and height of the middle part that holds MASS of the gradient across, and down."""
    sizes = []
    for axis in (0, 1):
        profile = field.sum(axis=axis)
        distance = np.abs(np.arange(len(profile)) - (len(profile) - 1) / 2)
        order = np.argsort(distance, kind="stable")
        reached = np.searchsorted(profile[order].cumsum(), MASS * profile.sum())
        sizes.append(2 * distance[order][min(reached, len(order) - 1)] + 1)
    return int(sizes[0]), int(sizes[1])


def pictures(cache: Path, recipe: Recipe, count: int) -> torch.Tensor:
    """(count, C, H, W) network inputs of photos spread over the cache."""
    ids = list(open_cache(cache).rows)
    photos = Photos(cache, ids[:: max(len(ids) // count, 1)][:count], recipe)
    batch = torch.from_numpy(np.stack([photos[i] for i in range(len(photos))]))
    return network_input(batch, torch.device("cpu"), recipe)


def run(args: argparse.Namespace) -> None:
    """The command line of `carpose.analysis receptive-field`."""
    torch.set_num_threads(args.threads)
    distances = cars.read(args.labels)["z"].quantile(NEAR_QUANTILES).to_numpy()
    length, height = drawing.CAR_SIZE[2], drawing.CAR_SIZE[1]
    rows, fields = [], {}
    for path in args.checkpoints:
        model, recipe, _ = load_checkpoint(path)
        model.eval()
        name = "/".join(path.parts[-4:-1]) or str(path)
        inputs = pictures(args.cache, recipe, args.photos)
        fields[name] = gradient(model, inputs)
        view = View(open_cache(args.cache), recipe)
        focal = camera.focal(view.matrix @ view.photo_intrinsics)
        effective_wide, effective_high = effective(fields[name])
        rows.append(
            {
                "name": name,
                "backbone": recipe.backbone,
                "input_width": recipe.input_width,
                "input_height": recipe.input_height,
                "theoretical": theoretical(model, inputs.shape[1]),
                "effective_width": effective_wide,
                "effective_height": effective_high,
                # Nearer than this a car from the side is longer than what the cell in its middle sees.
                "fits_beyond_metres": focal * length / effective_wide,
            }
        )
        near = pd.DataFrame(
            {
                "metres": distances,
                "width": focal * length / distances,
                "height": focal * height / distances,
            }
        )
    table = pd.DataFrame(rows)
    with atomic(args.output) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    plots.save(analysis_plots.receptive_figure(fields, table, near), args.picture)
    print(table.to_string(index=False, float_format="{:.1f}".format))
    print(
        f"of all cars {100 * NEAR_QUANTILES[0]:.0f} % are nearer than {distances[0]:.1f} m, "
        f"{100 * NEAR_QUANTILES[1]:.0f} % than {distances[1]:.1f} m"
    )
