"""A trained network for OpenVINO, which computes on the CPU what torch does, and faster.

In: a checkpoint. Out: its network as OpenVINO reads it, a file .xml with the weights in a .bin beside it.
Input: `pictures` (B, H, W, 3 or 4) float32, H and W the recipe's, a photo as carpose.data.network_input
gives it ((RGB − mean) / standard deviation; mask 0 … 1), but channels last. Outputs: the maps by name
(B, channels, H/4, W/4), the heat map before its sigmoid. Under `carpose` in the .xml: recipe, digest,
provenance, mean and standard deviation.
`carpose.predict --runtime openvino` reads no such file, it converts the checkpoint by itself.
"""

import argparse
import copy
import importlib
import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from models.predictor import Predictor

from . import UserError
from .checkpoint import load_checkpoint
from .data import MEAN, STD
from .files import atomic, run_main
from .recipe import Recipe


def openvino() -> ModuleType:
    """The package, which is optional. Raises UserError where it cannot be imported."""
    # It would report each import and conversion over the network; without this package of its it does not.
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise UserError(
            f"OpenVINO cannot be imported ({error}): install it with `pip install openvino`, "
            "or predict with torch"
        ) from error


class Maps(torch.nn.Module):
    """A network that takes pictures (B, H, W, C), as memory holds them, and returns the last maps alone."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network(pictures.permute(0, 3, 1, 2))[-1]


class Prediction(Predictor):
    """The same for what a prediction needs of all cells; features come as pictures go, the channels last."""

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        heatmap, features = super().forward(pictures.permute(0, 3, 1, 2))
        return {"heatmap": heatmap, "features": features.permute(0, 2, 3, 1)}


def convert(model: Maps | Prediction, recipe: Recipe):
    """A network on the CPU → OpenVINO's model, for batches of any length."""
    runtime = openvino()
    example = torch.zeros(1, recipe.input_height, recipe.input_width, 4 if recipe.mask_channel else 3)
    with warnings.catch_warnings(), torch.no_grad():
        # What Python computes of the size becomes a constant: the size is fixed.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(model, example, check_trace=False, strict=False)
        # Weights of its own: shared ones are gone with torch's network.
        converted = runtime.convert_model(traced, share_weights=False)
    # The grid of coordinates is as long as the batch that was traced.
    converted.reshape([1 if recipe.coordinates else -1, *example.shape[1:]])
    return converted


class Network(torch.nn.Module):
    """A models.predictor.Predictor that OpenVINO computes on the CPU with torch's number of threads; the few
    poses are left to torch.

    One photo after another, whose size is known when it is compiled: as fast as batches, and it needs no
    more memory for long ones. precision: f32, which agrees with torch to 1e-6, whatever the recipe's amp is;
    bf16 would round the maps themselves too, logits by 0.02.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe, precision: str = "f32"):
        super().__init__()
        converted = convert(Prediction(model), recipe)
        converted.reshape([1, *list(converted.input(0).partial_shape)[1:]])
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if recipe.norm == "group":
            settings["SNIPPETS_MODE"] = "DISABLE"  # 2026.4 crashes where it fuses them at a fixed size
        self.compiled = openvino().Core().compile_model(converted, "CPU", settings)
        self.heads = copy.deepcopy(model.last_heads).eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) float32, best channels last → heat map and features, as of a Predictor."""
        pictures = x.permute(0, 2, 3, 1).contiguous().numpy()
        each = [self.compiled([picture[None]], share_inputs=True) for picture in pictures]
        names = ("heatmap", "features")
        joined = (np.concatenate([found[name] for found in each]) for name in names)
        heatmap, features = map(torch.from_numpy, joined)
        return heatmap, features.permute(0, 3, 1, 2)

    def poses(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of a Predictor, in float32 like all the rest."""
        with torch.autocast("cpu", enabled=False):
            return self.heads.at(features, cells)


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint; the .xml is moved into place after its .bin. Raises UserError."""
    if output.suffix != ".xml":
        raise UserError(f"--output {output}: OpenVINO's files end in .xml")
    runtime = openvino()
    model, recipe, provenance = load_checkpoint(checkpoint)
    converted = convert(Maps(model), recipe)
    about = {
        "recipe": asdict(recipe),
        "digest": recipe.digest(),
        "provenance": provenance,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
    }
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        converted.set_rt_info(text, ["carpose", key])
    # The temporary names differ in the suffix alone, and by that OpenVINO names the second file.
    with atomic(output) as graph, atomic(output.with_suffix(".bin")):
        runtime.save_model(converted, graph, compress_to_fp16=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a fold")
    parser.add_argument(
        "--output", type=Path, required=True, help="output: a file .xml, and a .bin beside it"
    )
    args = parser.parse_args()
    write(args.checkpoint, args.output)
    size = sum(args.output.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(f"{args.output}: {size / 2**20:.1f} MiB with its weights")
    return 0


if __name__ == "__main__":
    run_main(main)
