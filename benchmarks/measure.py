"""What the benchmarks share: fair timing, made-up data of any size, and the file that keeps the figures."""

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
    """Median seconds on the processor of each function, all run in turn: a machine's slow minute hits all."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def begin(doc: str) -> argparse.ArgumentParser:
    """A parser with --output, which `finish` needs. From here on freed memory is kept, as in every stage."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


def finish(output: Path | None, figures: dict) -> None:
    """Print the figures with machine and command as JSON, and write them to the file of --output."""
    command = shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    record = {"command": command, "machine": machine(), "figures": figures}
    text = json.dumps(record, indent=1, default=lambda number: number.item())
    print(text)
    if output:
        write_text(output, text + "\n")


def machine() -> str:
    """Processor, cores, memory and what was computed with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    words = [model or platform.processor(), f"{os.cpu_count()} cores"]
    words.append(f"Python {platform.python_version()}, NumPy {np.__version__}")
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        words.append(f"PyTorch {torch.__version__}")
        if torch.cuda.is_available():
            words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def train_config(model: str, config: str = "config.yaml", **changes) -> TrainConfig:
    """The recipe, with changes, of one model of config.yaml with a file laid over it."""
    files = [ROOT / "config.yaml", ROOT / config]
    contents = [read_yaml(file) for file in files]
    whole = with_models(functools.reduce(laid_over, contents), files, {})
    return TrainConfig(**{**train_settings(whole, model), **changes})


def made_up_cars(image_ids: list[str], per_image: int, seed: int = 0) -> pd.DataFrame:
    """Labels of cars all over the lower half of full-size photos."""
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
    """A image cache of `count` photos of noise. Returns the ImageIds."""
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
    (folder / "cache.json").write_text(json.dumps(meta))
    return image_ids
