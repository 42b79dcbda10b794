"""Helpers of the benchmarks: interleaved timing, made-up data of any size, and the file of results."""

import argparse
import functools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from carpose.config.load import laid_over, train_settings, with_models
from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.core.files import write_text
from carpose.core.keyed import read_yaml
from carpose.core.memory import keep_freed_memory
from carpose.geometry import camera

ROOT = Path(__file__).parents[1]


def alternately(functions: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each function. They are called in turn, so that a slow phase of the machine
    affects all of them; the first call of each is not counted."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with --output for `write_results`. From here on freed memory is kept, as in every stage."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    return parser


def write_results(output: Path | None, figures: dict) -> None:
    """Print the figures with machine and command as JSON, and write them to the file of --output if given."""
    command = shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    record = {"command": command, "machine": machine(), "figures": figures}
    text = json.dumps(record, indent=1, default=lambda number: number.item())
    print(text)
    if output:
        write_text(output, text + "\n")


def machine() -> str:
    """Processor, number of cores, versions of Python, NumPy and PyTorch, GPU."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    parts = [model or platform.processor(), f"{os.cpu_count()} cores"]
    parts.append(f"Python {platform.python_version()}, NumPy {np.__version__}")
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        parts.append(f"PyTorch {torch.__version__}")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def train_config(model: str, config: str = "config.yaml", **changes) -> TrainConfig:
    """The training configuration of a model in config.yaml with the file `config` laid over it, with
    changes."""
    files = [ROOT / "config.yaml", ROOT / config]
    contents = [read_yaml(file) for file in files]
    merged = with_models(functools.reduce(laid_over, contents), files, {})
    return TrainConfig(**{**train_settings(merged, model), **changes})


def made_up_cars(image_ids: list[str], per_image: int, seed: int = 0) -> pd.DataFrame:
    """Labels of cars spread over the lower half of full-size photos, 8 to 100 m away."""
    rng = np.random.default_rng(seed)
    count = len(image_ids) * per_image
    width, height = camera.PHOTO_SIZE
    pixels = np.column_stack([rng.uniform(0, width, count), rng.uniform(0.57, 0.85, count) * height])
    xyz = camera.backproject(camera.INTRINSICS, pixels, rng.uniform(8, 100, count))
    angles = np.column_stack(
        [rng.normal(0.15, 0.02, count), rng.uniform(-3, 3, count), rng.normal(-3.1, 0.02, count)]
    )
    table = pd.DataFrame(np.column_stack([angles, xyz]), columns=cars.POSE)
    table.insert(0, "ImageId", np.repeat(image_ids, per_image))
    return table.assign(weight=1.0)


def made_up_cache(folder: Path, count: int, crop: list[float], scale: float) -> list[str]:
    """Writes an image cache of `count` photos of noise to the folder. Returns the ImageIds.

    crop: left, top, right, bottom as fractions of the photo; scale: cache pixels per photo pixel.
    """
    (width, height), (left, top, right, bottom) = camera.PHOTO_SIZE, crop
    size = (round((right - left) * width * scale), round((bottom - top) * height * scale))
    folder.mkdir(parents=True, exist_ok=True)
    photos = np.random.default_rng(0).integers(0, 255, (count, size[1], size[0], 4), np.uint8)
    np.save(folder / "photos.npy", photos)
    image_ids = [f"photo{number:06d}" for number in range(count)]
    meta = {
        "image_ids": image_ids,
        "photo_size": camera.PHOTO_SIZE,
        "intrinsics": camera.INTRINSICS.tolist(),
        "view": camera.crop_and_resize(camera.PHOTO_SIZE, crop, size).tolist(),
    }
    (folder / "cache.json").write_text(json.dumps(meta), encoding="utf-8")
    return image_ids
