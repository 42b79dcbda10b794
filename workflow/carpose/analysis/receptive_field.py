"""Receptive field of one cell of the output maps, compared with the size of near cars.

Theoretical: all pixels that can influence the cell. Effective: the part that 90 % of the gradient comes from
(after Luo et al. 2016, "Understanding the Effective Receptive Field", who show that it is far smaller).
"""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from carpose.data.cache import open_cache
from carpose.data.samples import Photos, network_input
from carpose.geometry import camera, meshes
from carpose.network.checkpoint import load_checkpoint

STRIP = (2048, 128)  # width, height in pixels of the image on which the theoretical field is measured
MASS = 0.9  # share of the gradient within the effective field, horizontally and vertically each
NEAR_QUANTILES = [0.01, 0.1, 0.5]  # of the labels' depth z


def gradient(model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """(H, W) of |∂ depth at the central cell / ∂ input|, mean over the batch, summed over channels.

    inputs: (B, C, H, W), a batch of the network's input.
    """
    inputs = inputs.detach().requires_grad_()
    depth = model(inputs)[-1]["depth"]
    depth[:, 0, depth.shape[2] // 2, depth.shape[3] // 2].sum().backward()
    return inputs.grad.abs().sum(dim=1).mean(dim=0).double().numpy()


def theoretical(model: nn.Module, channels: int) -> int:
    """Width in pixels of the region that can influence one cell; as all kernels are square, also its height.
    At most STRIP[0], which stands for the full image.

    Measured on a copy in which no contributions cancel: constant positive network weights, no normalisation,
    mean instead of maximum pooling. In double precision, since the edges contribute very little.
    """
    model = copy.deepcopy(model).double()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, nn.BatchNorm2d | nn.GroupNorm):
                # timm's batch norm includes its activation; removing it changes nothing for positive values.
                setattr(parent, name, nn.Identity())
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0 if parameter.dim() == 1 else 1 / parameter[0].numel())
    field = gradient(model, torch.ones(1, channels, *STRIP[::-1], dtype=torch.double))
    return int(np.ptp(np.flatnonzero(field.any(axis=0)))) + 1


def effective(field: np.ndarray) -> tuple[int, int]:
    """Width and height in pixels of the central part with the share MASS of the gradient, along each axis."""
    sizes = []
    for axis in (0, 1):
        profile = field.sum(axis=axis)
        distance = np.abs(np.arange(len(profile)) - (len(profile) - 1) / 2)
        order = np.argsort(distance, kind="stable")
        reached = np.searchsorted(profile[order].cumsum(), MASS * profile.sum())
        sizes.append(2 * distance[order][min(reached, len(order) - 1)] + 1)
    return int(sizes[0]), int(sizes[1])


def measure(
    checkpoints: list[Path], cache: Path, labels: pd.DataFrame, count: int
) -> tuple[pd.DataFrame, dict[str, np.ndarray], pd.DataFrame]:
    """The receptive fields of networks, on `count` photos spread over the cache.

    Returns a table with one row per network (sizes in pixels of its input); the gradients by network, (H, W);
    and a table of metres, the NEAR_QUANTILES of the labels' depth, with the width and height of a car there
    in pixels of the last network's input.
    """
    distances = labels["z"].quantile(NEAR_QUANTILES).to_numpy()
    _, height, length = meshes.CAR_SIZE
    image_ids = list(open_cache(cache).rows)
    image_ids = image_ids[:: max(len(image_ids) // count, 1)][:count]
    rows, gradients = [], {}
    for path in checkpoints:
        model, train_config, _ = load_checkpoint(path)
        model.eval()
        name = "/".join(path.parts[-4:-1]) or str(path)
        photos = Photos(cache, image_ids, train_config)
        batch = torch.from_numpy(np.stack([photos[i] for i in range(len(photos))]))
        inputs = network_input(batch, torch.device("cpu"), train_config)
        gradients[name] = gradient(model, inputs)
        focal = camera.focal(photos.view.matrix @ photos.view.photo_intrinsics)
        effective_width, effective_height = effective(gradients[name])
        row = {
            "name": name,
            **{key: getattr(train_config, key) for key in ("backbone", "input_width", "input_height")},
            "theoretical": theoretical(model, inputs.shape[1]),
            "effective_width": effective_width,
            "effective_height": effective_height,
            # A car seen from the side that is nearer than this is wider than the effective field.
            "fits_beyond_metres": focal * length / effective_width,
        }
        rows.append(row)
    sizes = {"width": focal * length / distances, "height": focal * height / distances}
    return pd.DataFrame(rows), gradients, pd.DataFrame({"metres": distances, **sizes})
