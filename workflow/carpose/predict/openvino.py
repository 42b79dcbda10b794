"""Inference with OpenVINO on the CPU instead of torch: equal to 1e-6, and often faster."""

import copy
import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from models.predictor import Predictor


def import_openvino() -> ModuleType:
    """Import the optional package. Raises UserError if that fails."""
    # Disables its telemetry, which would report each import and conversion over the internet.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is valid
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise UserError(
            f"OpenVINO cannot be imported ({error}): install it with `pip install openvino`, "
            "or predict with runtime: torch"
        ) from error


class ChannelsLastPredictor(Predictor):
    """A Predictor whose images and features have their channels last: (B, H, W, C)."""

    # The names are those of OpenVINO's outputs.
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        heatmap, features = super().forward(images.permute(0, 3, 1, 2))
        return {"heatmap": heatmap, "features": features.permute(0, 2, 3, 1)}


def convert(model: torch.nn.Module, train_config: TrainConfig) -> Any:
    """Convert a network that takes images (B, H, W, C) on the CPU to an OpenVINO model for any batch size.

    Raises UserError if OpenVINO is not installed.
    """
    runtime = import_openvino()
    example = torch.zeros(
        1, train_config.input_height, train_config.input_width, 4 if train_config.mask_channel else 3
    )
    with warnings.catch_warnings(), torch.no_grad():
        # Values that Python computes from the size become constants, which is right for a fixed size.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(model, example, check_trace=False, strict=False)
        # A copy of the weights: shared ones would be freed with the torch network.
        converted = runtime.convert_model(traced, share_weights=False)
    converted.reshape([-1, *example.shape[1:]])
    return converted


class Network(torch.nn.Module):
    """A replacement for models.predictor.Predictor: OpenVINO computes heat map and features on the CPU, with
    torch's number of threads; torch computes the few poses.

    The network is compiled for one image of fixed size and called for one image after the other, which is as
    fast as batches and needs less memory. It computes in float32, which agrees with torch to 1e-6, whatever
    `amp` is: bf16 would also round the outputs, logits by 0.02.
    """

    def __init__(self, model: torch.nn.Module, train_config: TrainConfig):
        super().__init__()
        converted = convert(ChannelsLastPredictor(model), train_config)
        converted.reshape([1, *list(converted.input(0).partial_shape)[1:]])
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if train_config.norm == "group":
            settings["SNIPPETS_MODE"] = "DISABLE"  # 2026.4 crashes when it fuses GroupNorm at a fixed size
        self.compiled = import_openvino().Core().compile_model(converted, "CPU", settings)
        self.heads = copy.deepcopy(model.last_heads).eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) float32, preferably channels_last → heat map and features, as Predictor.forward."""
        images = x.permute(0, 2, 3, 1).contiguous().numpy()
        outputs = [self.compiled([image[None]], share_inputs=True) for image in images]
        heatmap, features = (
            torch.from_numpy(np.concatenate([output[name] for output in outputs]))
            for name in ("heatmap", "features")
        )
        return heatmap, features.permute(0, 3, 1, 2)

    def outputs_at(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """As Predictor.outputs_at, in float32 too."""
        with torch.autocast("cpu", enabled=False):
            return self.heads.at(features, cells)
