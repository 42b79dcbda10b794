"""Cars → targets against one full-map Gaussian per car, and maps → cars against loops and SciPy's Powell.

A batch of 8 photos at 1536×512 with 30 cars each, on one core.

    python -m benchmarks.maps
"""

import time

import numpy as np
import torch

from benchmarks import baselines, measure
from carpose import camera, codec, predict, rotation
from carpose.cars import ANGLES, POSITION
from carpose.checkpoint import build


def perfect_maps(targets: codec.Targets, size: tuple[int, int], heads: dict[str, int]) -> dict:
    """What a network that learnt its targets by heart puts out."""
    width, height = size
    shape = len(targets.heatmap), height, width
    maps = {name: torch.zeros(shape[0], channels, height, width) for name, channels in heads.items()}
    maps["heatmap"][:, 0] = torch.from_numpy(targets.heatmap)
    photos, rows, columns = np.unravel_index(targets.cell, shape)
    for name in set(heads) - {"heatmap"}:
        values = torch.from_numpy(getattr(targets, name))
        maps[name][photos, : values.shape[1], rows, columns] = values
    return maps


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--cars", type=int, default=30, help="per photo")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = measure.recipe("hourglass", input_width=1536, input_height=512, radius=0.3, batch_size=8)
    size = (recipe.input_width // codec.STRIDE, recipe.input_height // codec.STRIDE)
    view = camera.crop_and_resize(measure.PHOTO, recipe.crop, (1536, 512))
    intrinsics = camera.cells(codec.STRIDE) @ view @ measure.INTRINSICS
    focal = camera.focal(intrinsics)
    names = list("abcdefgh")
    table = measure.made_up_cars(names, args.cars)
    truth, turns = table[POSITION].to_numpy(), rotation.matrix(table[ANGLES].to_numpy())
    each, weight = np.stack([intrinsics] * len(names)), np.ones(len(truth))
    photo = np.repeat(np.arange(len(names)), args.cars)

    def targets():
        return codec.encode(truth, turns, weight, each, size, focal, recipe, photo=photo)

    def literal():
        by_photo = zip(np.split(truth, len(names)), np.split(turns, len(names)), strict=True)
        return [baselines.targets(xyz, turn, intrinsics, size, focal, recipe) for xyz, turn in by_photo]

    encode = measure.alternately({"literal": literal, "ours": targets}, 20, settled=True)
    difference = 0.0
    for (heatmap, _), ours in zip(literal(), targets().heatmap, strict=True):
        near = heatmap > np.exp(-4.5)  # beyond three σ ours is cut off
        difference = max(difference, np.abs(heatmap - ours)[near].max())

    heads = codec.heads(recipe)
    maps = perfect_maps(targets(), size, heads)

    def decode():
        poses = codec.poses_of(maps)
        return codec.decode(maps["heatmap"], poses, intrinsics, focal, recipe, 0.05, pool_depth=True)

    found = decode()
    uv = camera.project(intrinsics, found["xyz"])
    start = time.process_time()
    powell = np.array(
        [
            baselines.position(intrinsics, pixel, z)
            for pixel, z in zip(uv[:40], found["xyz"][:40, 2], strict=True)
        ]
    )
    slow = (time.process_time() - start) / len(powell)
    start = time.process_time()
    baselines.peaks(maps["heatmap"][0, 0].numpy(), 0.99)
    cells = time.process_time() - start
    model = predict.placed(build(recipe), recipe, torch.device("cpu"), "torch")
    pictures = torch.randint(0, 255, (8, 512, 1536, 4), dtype=torch.uint8)
    times = measure.alternately(
        {
            "decode": decode,
            "geometry": lambda: camera.backproject(intrinsics, uv, found["xyz"][:, 2]),
        },
        20,
    )
    forward = measure.alternately(
        {"": lambda: predict.forward(model, pictures, recipe, torch.device("cpu"))}, 3
    )[""]

    def error(xyz):
        """Median relative distance to the nearest true car."""
        apart = np.linalg.norm(xyz[:, None] - truth, axis=2) / np.linalg.norm(truth, axis=1)
        return float(np.median(apart.min(axis=1)))

    per_car = times["geometry"] / len(uv)
    measure.finish(
        args,
        {
            "targets": {
                "full maps and loops, ms per batch": round(1e3 * encode["literal"], 1),
                "ours ms per batch": round(1e3 * encode["ours"], 2),
                "times faster": round(encode["literal"] / encode["ours"], 1),
                "greatest difference": float(difference),
            },
            "cars": {
                "cars in the batch": len(uv),
                "Powell ms per car": round(1e3 * slow, 2),
                "ours µs per car": round(1e6 * per_car, 3),
                "times faster per car": round(slow / per_car),
                "error by Powell": error(powell),
                "error of ours": error(found["xyz"][:40]),
                "peaks cell by cell, ms per photo": round(1e3 * cells, 1),
                "whole decoding ms per batch": round(1e3 * times["decode"], 2),
                "forward pass of the smallest network ms per batch": round(1e3 * forward),
                "share of the forward pass": round(times["decode"] / forward, 4),
            },
        },
    )


if __name__ == "__main__":
    main()
