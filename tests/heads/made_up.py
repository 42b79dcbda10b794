"""Cars on small output maps, and the maps that a perfect network would output for them."""

import numpy as np
import torch

from carpose.geometry import camera, rotation
from carpose.heads import loss
from carpose.heads.decode import decode
from carpose.heads.head import make_heads
from carpose.heads.targets import encode

SIZE = (128, 40)
INTRINSICS = (
    camera.cells(4)
    @ camera.crop_and_resize((846, 678), [0, 0.5, 1, 1], (512, 160))
    @ np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
)
FOCAL = camera.focal(INTRINSICS)
MAP = (1, *SIZE[::-1])


def scene(count=12, seed=0):
    """Cars spread over the view, in far-apart cells: positions and rotations."""
    rng = np.random.default_rng(seed)
    columns = np.linspace(6, 120, count)
    uv = np.column_stack([columns, rng.uniform(8, 30, count)])
    xyz = camera.backproject(INTRINSICS, uv, rng.uniform(6, 120, count))
    sign = rng.choice([-1, 1], count)
    angles = np.column_stack(
        [
            rng.normal(0.15, 0.03, count),
            rng.uniform(-np.pi, np.pi, count),
            sign * (np.pi - rng.uniform(0, 0.05, count)),
        ]
    )
    return xyz, rotation.matrix(angles)


def encoded(xyz, rotations, train_config, weight=None, intrinsics=INTRINSICS, size=SIZE, **options):
    """Targets of the cars of one photo, by default all labelled."""
    weight = np.ones(len(xyz)) if weight is None else weight
    return encode(xyz, rotations, weight, intrinsics, size, FOCAL, train_config, **options)


def batch_of_four(train_config):
    """Targets of four photos with different intrinsics, one of them without cars; and of each photo alone."""
    scenes = [scene(count, seed) for seed, count in enumerate((12, 3, 0, 7))]
    counts = [len(xyz) for xyz, _ in scenes]
    intrinsics = np.stack([np.diag([zoom, zoom, 1]) @ INTRINSICS for zoom in (1, 1.1, 0.9, 1.05)])
    weight = np.resize([1.0, 0.7, 0.0], sum(counts))
    noise = np.resize([0.0, 0.02], sum(counts))
    xyz, rotations = (np.concatenate(arrays) for arrays in zip(*scenes, strict=True))
    photo = np.repeat(np.arange(4), counts)
    together = encode(xyz, rotations, weight, intrinsics, SIZE, FOCAL, train_config, noise, photo)
    alone = [
        encode(xyz[cars], rotations[cars], weight[cars], matrix, SIZE, FOCAL, train_config, noise[cars])
        for matrix, cars in zip(intrinsics, (photo == number for number in range(4)), strict=True)
    ]
    return together, alone


def tensors(targets):
    return {name: torch.from_numpy(value) for name, value in targets.items()}


def gather(output, cell):
    """Maps (B, C, H, W) at cell indices (N,) → (N, C)."""
    height, width = output.shape[2:]
    return output[cell // (height * width), :, cell // width % height, cell % width]


def outputs_from(maps):
    """A function like Predictor.outputs_at: the values of these maps at cells."""
    return lambda cells: {name: gather(value, cells) for name, value in maps.items() if name != "heatmap"}


def losses_of(stacks, targets, train_config):
    """The losses of the maps of one or more stacks."""
    targets = tensors(targets)
    outputs = [{"heatmap": maps["heatmap"], **outputs_from(maps)(targets["cell"])} for maps in stacks]
    return loss.compute(outputs, targets, train_config, totals(targets))


def totals(targets):
    return loss.as_totals(loss.local_counts(targets).clamp(min=1))


def decoded(maps, train_config, threshold, max_cars=64):
    return decode(maps["heatmap"], outputs_from(maps), INTRINSICS, FOCAL, train_config, threshold, max_cars)


def zero_maps(train_config):
    return {
        name: torch.zeros(1, head.channels, *SIZE[::-1]) for name, head in make_heads(train_config).items()
    }


def random_maps(train_config, shape=MAP, seed=0):
    """shape: batch, height, width."""
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    return {
        name: torch.randn(batch, head.channels, height, width, generator=generator)
        for name, head in make_heads(train_config).items()
    }


def perfect_maps(targets, train_config):
    """Maps that equal the targets at all positive cells."""
    maps = zero_maps(train_config)
    maps["heatmap"][:, 0] = torch.from_numpy(targets["heatmap"])
    rows, columns = np.divmod(targets["cell"], SIZE[0])
    for name in set(maps) - {"heatmap"}:
        values = torch.from_numpy(targets[name]).T
        maps[name][0, : len(values), rows, columns] = values
    return maps


def from_left_to_right(xyz):
    return np.argsort(xyz[:, 0] / xyz[:, 2])
