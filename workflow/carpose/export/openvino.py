"""A checkpoint's network written as OpenVINO's file. What is in it: see `carpose.export`."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.data.inputs import MEAN, STD
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.openvino import convert, openvino


class Maps(torch.nn.Module):
    """A network that takes pictures (B, H, W, C), as memory holds them, and returns the last maps alone."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network(pictures.permute(0, 3, 1, 2))[-1]


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
