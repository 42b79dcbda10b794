"""A trained network as an ONNX file: its dense maps, in float32, for batches of any length.

The file's metadata say what goes in and what comes out, as JSON: the camera, the view (photo pixels → pixels
of the input), and what decoding needs. carpose decodes the same maps (carpose.export.verify).
"""

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import torch

from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.data.samples import NominalView
from carpose.heads.head import STRIDE, make_heads
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.members import camera_of

from .maps import Maps, as_texts, metadata

OPSET = 17  # of 2022: any runtime of today reads it
INPUT = "images"


def package(name: str) -> ModuleType:
    """onnx or onnxruntime, which are optional. Raises UserError where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        advice = "install it with `pip install onnx onnxruntime`"
        raise UserError(f"{name} cannot be imported ({error}): {advice}") from error


class Outputs(torch.nn.Module):
    """The last maps as a tuple in the order of `names`, as the exporter wants them."""

    def __init__(self, network: torch.nn.Module, names: list[str]):
        super().__init__()
        self.maps, self.names = Maps(network), names

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.maps(images)
        return tuple(maps[name] for name in self.names)


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint. Raises UserError where onnx is missing or the checkpoint cannot be used."""
    onnx = package("onnx")
    model, train_config, provenance = load_checkpoint(checkpoint)
    names = list(make_heads(train_config))
    channels = 4 if train_config.mask_channel else 3
    example = torch.zeros(1, train_config.input_height, train_config.input_width, channels)
    with atomic(output) as temporary:
        with warnings.catch_warnings():
            # By tracing: the newer exporter wants one more package, and takes ten times as long.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                Outputs(model, names).eval(),
                (example,),
                str(temporary),
                input_names=[INPUT],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)},
                opset_version=OPSET,
                dynamo=False,
            )
        written = onnx.load(temporary)
        view = NominalView(camera_of(checkpoint, provenance), train_config)
        facts = {
            "input": f"{INPUT}: float32 (batch, {', '.join(map(str, example.shape[1:]))}), channels last:"
            " the photo under `view` (shrunk by areas, then bilinear), (RGB / 255 − mean) / std"
            + (", then the mask 0 … 1" if train_config.mask_channel else ""),
            "outputs": "float32 (batch, channels, rows, columns) by head; heatmap: logits of a car's centre"
            f" in this cell of {STRIDE}×{STRIDE} pixels",
            "view": view.matrix.tolist(),
            "intrinsics": view.photo_intrinsics.tolist(),
            "map_intrinsics": view.map_intrinsics.tolist(),
            "focal_reference": float(view.focal_reference),
            "stride": STRIDE,
        }
        onnx.helper.set_model_props(written, metadata(train_config, provenance) | as_texts(facts))
        written.producer_name = "carpose"
        onnx.checker.check_model(written)
        onnx.save(written, temporary)
