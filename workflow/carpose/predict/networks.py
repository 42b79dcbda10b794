"""Trained networks as they predict: loaded from checkpoints, put where they compute, and what they say of a
batch of pictures: heat maps, and poses at the cells that are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.data.samples import network_input
from carpose.heads.decode import Poses
from carpose.heads.head import Tensors, make_heads
from carpose.network.checkpoint import load_checkpoint
from carpose.network.device import autocast_dtype
from carpose.network.graphs import Replayed
from models.predictor import Predictor, fold_batch_norms


def prepare_for_inference(
    model: torch.nn.Module,
    train_config: TrainConfig,
    device: torch.device,
    runtime: str = "torch",
    graphs: bool = True,
) -> torch.nn.Module:
    """A copy of the network as and where it will predict: a Predictor, or what works like it.

    runtime: torch, or openvino, which is for the CPU alone; graphs: on a GPU as a CUDA graph.
    """
    if runtime == "openvino" and device.type == "cpu":
        from .openvino import Network  # here: what it imports is optional

        return Network(model, train_config)
    folded = fold_batch_norms(model, 4 if train_config.mask_channel else 3)
    predictor = Predictor(folded).to(device, memory_format=torch.channels_last)
    return Replayed(predictor) if graphs and device.type == "cuda" else predictor


def load_networks(
    checkpoints: Sequence[Path], device: torch.device, runtime: str = "torch", graphs: bool = True
) -> tuple[list[torch.nn.Module], TrainConfig]:
    """Checkpoints of fold 0, 1, … of one model → its networks, and their recipe.

    runtime, graphs: as in `placed`. Raises UserError where a checkpoint is another fold's, where recipes
    differ, or where the runtime is not installed.
    """
    networks, first = [], None
    for fold, path in enumerate(checkpoints):
        model, train_config, _ = load_checkpoint(path, fold)
        first = first or train_config
        if train_config != first:
            raise UserError(f"{path}: its recipe differs from {checkpoints[0]}'s; retrain one of them")
        networks.append(prepare_for_inference(model, train_config, device, runtime, graphs))
    return networks, first


@dataclass
class RawPrediction:
    """What one network, or the mean of several, says of a batch of pictures."""

    heatmap: torch.Tensor  # (B, 1, H/4, W/4) float32, probabilities
    poses: Poses  # cells (N,) counted through the batch → (N, channels) by head


def forward(
    model: torch.nn.Module, pictures: torch.Tensor, train_config: TrainConfig, device: torch.device
) -> RawPrediction:
    """What a network says of pictures (B, H, W, 4) uint8. model: of carpose.predict.networks."""
    dtype = autocast_dtype(device, train_config.amp)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    with torch.inference_mode(), autocast():
        logits, features = model(network_input(pictures, device, train_config))
        heatmap = logits.float().sigmoid()

    def poses(cells: torch.Tensor) -> Tensors:
        with torch.inference_mode(), autocast():
            return {name: value.float() for name, value in model.poses(features, cells).items()}

    return RawPrediction(heatmap, poses)


def flipped_forward(
    model: torch.nn.Module, pictures: torch.Tensor, train_config: TrainConfig, device: torch.device
) -> RawPrediction:
    """The mean of what a network says of the pictures and of their mirror images, mapped back.

    An array flip is what a camera with mirrored cx sees of the mirrored scene: exact, no resampling.
    """
    heads = make_heads(train_config)
    plain, mirrored = (forward(model, view, train_config, device) for view in (pictures, pictures.flip(2)))
    width = plain.heatmap.shape[3]

    def poses(cells: torch.Tensor) -> Tensors:
        column = cells % width
        outputs = mirrored.poses(cells - column + (width - 1 - column))
        return {name: heads[name].mirrored(output) for name, output in outputs.items()}

    return mean([plain, RawPrediction(mirrored.heatmap.flip(3), poses)])


def mean(predictions: list[RawPrediction]) -> RawPrediction:
    """The mean of several networks' predictions, or of several views of the same pictures."""

    def poses(cells: torch.Tensor) -> Tensors:
        outputs = [prediction.poses(cells) for prediction in predictions]
        return {name: sum(output[name] for output in outputs) / len(outputs) for name in outputs[0]}

    heatmaps = [prediction.heatmap for prediction in predictions]
    return RawPrediction(sum(heatmaps) / len(heatmaps), poses)
