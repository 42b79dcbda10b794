"""The network that OpenVINO computes on the CPU instead of torch: the same to 1e-6, and often faster."""

import copy
import importlib
import sys
import warnings
from types import ModuleType

import numpy as np
import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from models.predictor import Predictor


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


class Prediction(Predictor):
    """What a prediction needs of all cells; pictures and features have their channels last."""

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        heatmap, features = super().forward(pictures.permute(0, 3, 1, 2))
        return {"heatmap": heatmap, "features": features.permute(0, 2, 3, 1)}


def convert(model: torch.nn.Module, train_config: TrainConfig):
    """A network that takes pictures (B, H, W, C) on the CPU → OpenVINO's model, for batches of any length."""
    runtime = openvino()
    example = torch.zeros(
        1, train_config.input_height, train_config.input_width, 4 if train_config.mask_channel else 3
    )
    with warnings.catch_warnings(), torch.no_grad():
        # What Python computes of the size becomes a constant: the size is fixed.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(model, example, check_trace=False, strict=False)
        # Weights of its own: shared ones are gone with torch's network.
        converted = runtime.convert_model(traced, share_weights=False)
    converted.reshape([-1, *example.shape[1:]])
    return converted


class Network(torch.nn.Module):
    """A models.predictor.Predictor that OpenVINO computes on the CPU with torch's number of threads; the few
    poses are left to torch.

    One photo after another, whose size is known when it is compiled: as fast as batches, and it needs no
    more memory for long ones. In float32, which agrees with torch to 1e-6, whatever the recipe's amp is; bf16
    would round the maps themselves too, logits by 0.02.
    """

    def __init__(self, model: torch.nn.Module, train_config: TrainConfig):
        super().__init__()
        converted = convert(Prediction(model), train_config)
        converted.reshape([1, *list(converted.input(0).partial_shape)[1:]])
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if train_config.norm == "group":
            settings["SNIPPETS_MODE"] = "DISABLE"  # 2026.4 crashes where it fuses them at a fixed size
        self.compiled = openvino().Core().compile_model(converted, "CPU", settings)
        self.heads = copy.deepcopy(model.last_heads).eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) float32, best channels last → heat map and features, as of a Predictor."""
        pictures = x.permute(0, 2, 3, 1).contiguous().numpy()
        outputs = [self.compiled([picture[None]], share_inputs=True) for picture in pictures]
        heatmap, features = (
            torch.from_numpy(np.concatenate([output[name] for output in outputs]))
            for name in ("heatmap", "features")
        )
        return heatmap, features.permute(0, 3, 1, 2)

    def poses(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of a Predictor, in float32 like all the rest."""
        with torch.autocast("cpu", enabled=False):
            return self.heads.at(features, cells)
