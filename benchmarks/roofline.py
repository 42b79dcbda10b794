"""The least time and memory that a training step and a prediction can take on a card, by arithmetic alone.

Each operation of the real networks, losses and optimiser is counted on tensors without content: what it
computes, and what it must read and write at least once. It takes no less than the greater of FLOP / peak and
bytes / bandwidth (Williams et al. 2009, the roofline model); operations follow each other, so their sum is a
floor. Memory is the most that all tensors alive at one time come to; libraries' work space is not in it.

    python -m benchmarks.roofline --config configs/pku.yaml --cards h200 rtx4090
"""

import argparse
import itertools
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC2701  it has no other name
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701  it has no other name
from torch.utils._pytree import tree_leaves  # noqa: PLC2701  it has no other name

from benchmarks import measure
from carpose.config.recipe import Recipe
from carpose.core.cars import ANGLES, POSITION
from carpose.data.samples import network_input, normalised
from carpose.geometry import camera
from carpose.geometry.rotation import matrix
from carpose.heads import loss
from carpose.heads.head import STRIDE
from carpose.heads.targets import encode
from carpose.predict.networks import forward, placed
from carpose.train.step import Training

CPU = torch.device("cpu")


@dataclass
class Card:
    """What a device can do at most: matrix products in FLOP/s, device memory in bytes/s read and written."""

    peak: float
    bandwidth: float


CARDS = {  # by their data sheets: bf16 without sparsity, summed in float32
    "h200": Card(989e12, 4.8e12),
    "h100": Card(989e12, 3.35e12),
    "a100": Card(312e12, 2.0e12),
    "rtx4090": Card(165e12, 1.008e12),
}
KINDS = {
    "convolution": "convolutions",
    "conv2d": "convolutions",  # where no gradients are kept
    "convolution_backward": "convolutions",
    "mm": "convolutions",
    "addmm": "convolutions",
    "linear": "convolutions",
    "native_batch_norm": "batch norms",
    "native_batch_norm_backward": "batch norms",
    "_fused_adamw_": "optimiser",
}  # of operations; all others are "the rest": activations, sums, resizing, losses
PICKS = {"index", "index_select", "gather"}  # read no more than they give


class Traffic(TorchDispatchMode):
    """Counts what is computed within `with Traffic(...)`, in backward passes too.

    held: bytes that are in memory already. operations: (kind, FLOP, bytes) of each. peak: bytes.
    """

    def __init__(self, held: int = 0):
        super().__init__()
        self.live = self.peak = held
        self.operations: list[tuple[str, float, int]] = []
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given, made = tensors((args, kwargs)), tensors(out)
        mutable = func._schema.is_mutable
        if mutable or any(address(tensor) not in map(address, given) for tensor in made):  # no mere view
            written = sum(map(size, made)) or sum(map(size, given))
            read = written if name in PICKS else sum(map(size, given))
            written = 0 if name.startswith(("empty", "new_empty")) else written
            self.operations.append((KINDS.get(name, "the rest"), flop(name, args, out), read + written))
        for tensor in made:
            self.follow(tensor.untyped_storage())
        return out

    def follow(self, memory: torch.UntypedStorage) -> None:
        """Add memory that is new, and take it away when its last tensor goes."""
        key, count = memory._cdata, memory.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += count
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            self.known.discard(key)
            self.live -= count

        weakref.finalize(memory, gone)


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def flop(name: str, args: tuple, out) -> float:
    """Multiplications and additions of convolutions and matrix products; all else is bound by memory."""
    if name in ("convolution", "conv2d"):
        return 2 * out.numel() * args[1][0].numel()
    if name == "convolution_backward":  # as much again for the gradient of the input, and of the weights
        return 2 * args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
    if name in ("mm", "addmm", "linear"):
        return 2 * out.numel() * args[-2 if name != "linear" else 0].shape[-1]
    return 0


def training_work(training: Training, pictures: torch.Tensor, targets: dict) -> Traffic:
    """One step of a training on the CPU, network, losses and optimiser; nothing is computed.

    pictures: (B, H, W, 3 or 4) float32, normalised.
    """
    recipe, optimizer = training.recipe, training.optimizer
    modules = (training.model, training.ema.module)
    held = size(pictures) + sum(size(value) for module in modules for value in module.state_dict().values())
    inputs = network_input(pictures, CPU, recipe)
    totals = loss.as_totals(loss.own_counts(targets))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):  # the first step makes the optimiser's state
            state = sum(map(size, tensors(dict(optimizer.state))))
            with Traffic(held + state) as traffic:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=training.dtype, enabled=training.dtype is not None):
                    outputs = training.model(inputs, targets["cell"])
                terms = loss.compute(outputs, targets, recipe, totals)
                torch.stack(list(terms.values())).sum().backward()
                optimizer.step()
    return traffic


def prediction_work(model: torch.nn.Module, pictures: torch.Tensor, recipe: Recipe) -> Traffic:
    """A prediction of a batch by a network of `placed` on the CPU, with 8 cars of nine cells on each picture;
    nothing is computed."""
    held = size(pictures) + sum(size(value) for value in model.state_dict().values())
    with FakeTensorMode(allow_non_fake_inputs=True), Traffic(held) as traffic:
        forward(model, pictures, recipe, CPU).poses(torch.arange(9 * 8 * len(pictures)))
    return traffic


def floor(traffic: Traffic, card: Card, batch: int) -> dict:
    """What the card allows: photos/s, what these come to of the matrix peak, where the time goes."""
    spent = Counter()
    for kind, work, moved in traffic.operations:
        spent[kind] += max(work / card.peak, moved / card.bandwidth)
    whole = sum(spent.values())
    work = sum(work for _, work, _ in traffic.operations)
    moved = sum(moved for *_, moved in traffic.operations)
    return {
        "photos/s": round(batch / whole, 1),
        "of the matrix peak": round(work / whole / card.peak, 3),
        "ms": round(1e3 * whole, 2),
        "ms of arithmetic": round(1e3 * work / card.peak, 2),
        "ms by kind": {kind: round(1e3 * value, 2) for kind, value in spent.most_common()},
        "operations": len(traffic.operations),
        "GFLOP per photo": round(work / batch / 1e9, 1),
        "GB moved per photo": round(moved / batch / 1e9, 3),
        "GiB": round(traffic.peak / 2**30, 2),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="configs/pku.yaml")
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--sizes", nargs="+", default=["1536x512", "2560x1024"])
    parser.add_argument("--batch", type=int, help="photos; without it the recipe's")


def recipes(
    config: str, models: list[str], sizes: list[str], formats: list[str], batch: int | None
) -> dict[str, Recipe]:
    """Each model at each size in each number format, by a name for it."""
    result = {}
    for size, model, amp in itertools.product(sizes, models, formats):
        width, height = map(int, size.split("x"))
        shape = {"input_width": width, "input_height": height}
        shape |= {"batch_size": batch} if batch else {}
        recipe = measure.recipe(model, config, **shape, amp=amp, pretrained="none")
        result[f"{model} {size} {amp}"] = recipe
    return result


def encoder(recipe: Recipe, photos: int, per_photo: int) -> Callable[[], dict[str, np.ndarray]]:
    """A function that makes the targets of so many photos with so many cars each."""
    size = (recipe.input_width, recipe.input_height)
    view = camera.crop_and_resize(camera.PHOTO_SIZE, recipe.crop, size)
    intrinsics = camera.cells(STRIDE) @ view @ camera.INTRINSICS
    cars = measure.made_up_cars([str(number) for number in range(photos)], per_photo)
    xyz, turn = cars[POSITION].to_numpy(), matrix(cars[ANGLES].to_numpy())
    weight, photo = np.ones(len(cars)), np.repeat(np.arange(photos), per_photo)
    each, focal = np.stack([intrinsics] * photos), camera.focal(intrinsics)
    cells = (size[0] // STRIDE, size[1] // STRIDE)
    return lambda: encode(xyz, turn, weight, each, cells, focal, recipe, photo=photo)


def constant_batch(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pictures of noise, and targets of 8 cars each."""
    targets = encoder(recipe, recipe.batch_size, 8)()
    shape = (recipe.batch_size, recipe.input_height, recipe.input_width, 4)
    pictures = torch.randint(0, 255, shape, dtype=torch.uint8)
    return pictures.to(device), {name: torch.from_numpy(value).to(device) for name, value in targets.items()}


def works(recipe: Recipe) -> dict[str, Traffic]:
    """Of a training's step and of a prediction, a batch of the recipe each."""
    training = Training(recipe, None, CPU)
    pictures, targets = constant_batch(recipe, CPU)
    pictures = normalised(pictures, recipe)
    counted = {"training": training_work(training, pictures, targets)}
    model = placed(training.model, recipe, CPU)
    return counted | {"prediction": prediction_work(model, pictures, recipe)}


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--cards", nargs="+", default=["h200"], choices=list(CARDS))
    parser.set_defaults(formats=["bf16"])  # as the cards' peaks
    args = parser.parse_args()
    figures = {}
    named = recipes(args.config, args.models, args.sizes, args.formats, args.batch)
    for name, recipe in named.items():
        for what, traffic in works(recipe).items():
            for card in args.cards:
                figures[f"{name}, {what}, {card}"] = floor(traffic, CARDS[card], recipe.batch_size)
                print(f"{name}, {what}, {card}", figures[f"{name}, {what}, {card}"], flush=True)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
