"""Trained networks for prediction: loaded from checkpoints, moved to the device, and their raw predictions
for a batch of images: heat maps, and poses at chosen cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.data.samples import network_input
from carpose.heads.decode import OutputsAt
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
    cuda_graphs: bool = True,
) -> torch.nn.Module:
    """A copy of the network on the device, prepared for inference, with the interface of a Predictor.

    runtime: torch, or openvino (on a CPU; a GPU always uses torch); cuda_graphs: use a CUDA graph on a GPU.
    Raises UserError if the runtime is not installed.
    """
    if runtime == "openvino" and device.type == "cpu":
        from .openvino import Network  # imported here, because OpenVINO is optional

        return Network(model, train_config)
    folded = fold_batch_norms(model, 4 if train_config.mask_channel else 3)
    predictor = Predictor(folded).to(device, memory_format=torch.channels_last)
    return Replayed(predictor) if cuda_graphs and device.type == "cuda" else predictor


def load_networks(
    checkpoints: Sequence[Path], device: torch.device, runtime: str = "torch", cuda_graphs: bool = True
) -> tuple[list[torch.nn.Module], TrainConfig]:
    """Checkpoints of fold 0, 1, … of one model → the networks, and their training configuration.

    runtime, cuda_graphs: see prepare_for_inference. Raises UserError if a checkpoint is invalid or of another
    fold, if training configurations differ, or if the runtime is not installed.
    """
    networks, first_config = [], None
    for fold, path in enumerate(checkpoints):
        model, train_config, _ = load_checkpoint(path, fold)
        first_config = first_config or train_config
        if train_config != first_config:
            raise UserError(
                f"{path}: its training configuration differs from that of {checkpoints[0]}; train one "
                "of them again"
            )
        networks.append(prepare_for_inference(model, train_config, device, runtime, cuda_graphs))
    assert first_config is not None  # there is at least one checkpoint
    return networks, first_config


@dataclass
class RawPrediction:
    """The outputs of one network, or the mean of several, for a batch of images."""

    heatmap: torch.Tensor  # (B, 1, H/4, W/4) float32, probabilities
    outputs_at: OutputsAt  # cell indices (N,) → (N, channels) by head


def forward(
    model: torch.nn.Module, images: torch.Tensor, train_config: TrainConfig, device: torch.device
) -> RawPrediction:
    """The outputs of a network (of prepare_for_inference) for images (B, H, W, 4) uint8."""
    dtype = autocast_dtype(device, train_config.amp)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    with torch.inference_mode(), autocast():
        logits, features = model(network_input(images, device, train_config))
        heatmap = logits.float().sigmoid()

    def outputs_at(cells: torch.Tensor) -> Tensors:
        with torch.inference_mode(), autocast():
            return {name: value.float() for name, value in model.outputs_at(features, cells).items()}

    return RawPrediction(heatmap, outputs_at)


def flipped_forward(
    model: torch.nn.Module, images: torch.Tensor, train_config: TrainConfig, device: torch.device
) -> RawPrediction:
    """The mean of a network's outputs for the images and, mapped back, for their mirror images.

    A flipped array is exactly what a camera with mirrored cx sees of the mirrored scene, without resampling.
    """
    heads = make_heads(train_config)
    plain, mirrored = (forward(model, view, train_config, device) for view in (images, images.flip(2)))
    width = plain.heatmap.shape[3]

    def outputs_at(cells: torch.Tensor) -> Tensors:
        column = cells % width
        outputs = mirrored.outputs_at(cells - column + (width - 1 - column))
        return {name: heads[name].mirrored(output) for name, output in outputs.items()}

    return mean([plain, RawPrediction(mirrored.heatmap.flip(3), outputs_at)])


def mean(predictions: list[RawPrediction]) -> RawPrediction:
    """The mean of several predictions for the same images."""

    def outputs_at(cells: torch.Tensor) -> Tensors:
        outputs = [prediction.outputs_at(cells) for prediction in predictions]
        return {name: sum(output[name] for output in outputs) / len(outputs) for name in outputs[0]}

    heatmaps = [prediction.heatmap for prediction in predictions]
    return RawPrediction(sum(heatmaps) / len(heatmaps), outputs_at)
