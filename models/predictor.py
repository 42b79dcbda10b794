"""A trained network for inference: batch norms folded into convolutions, the heat map at all cells, and the
other heads at chosen cells.

Only a few dozen of fifty thousand cells contain a car. The other heads at all cells would take between a
fourteenth and two fifths of all arithmetic (docs/lab/profiles.md).
"""

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers import HEATMAP


class Predictor(nn.Module):
    """network: of build_model, with or without folded batch norms; it is set to evaluation mode."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) → the heat map's logits (B, 1, H/4, W/4), and the features for `outputs_at`."""
        features = self.network.features(x)[-1]
        return self.network.last_heads[HEATMAP](features), features

    def outputs_at(self, features: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs of all other heads at cells (N,), indices through the batch: (N, channels) by name."""
        return self.network.last_heads.at(features, cells)


def fold_batch_norms(model: nn.Module, channels: int = 3) -> nn.Module:
    """A copy of the network in evaluation mode with batch norms folded into the convolutions before them.

    The outputs are equal up to rounding. channels: of the network's input. Which batch norm reads which
    convolution's output is found by running the network once on a small image. A pair is folded if each layer
    is called once, and if no other batch norm reads the output. Activations inside batch norms are kept.
    """
    model = copy.deepcopy(model).eval()
    # By id of a convolution's output: the layer, the output's version (changed by in-place operations), and
    # the tensor itself, which keeps its id from being reused.
    written: dict[int, tuple[nn.Module, int, torch.Tensor]] = {}
    pairs: dict[nn.Module, nn.Module] = {}
    calls: Counter[nn.Module] = Counter()

    def convolved(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        calls[layer] += 1
        written[id(output)] = layer, output._version, output

    def normalised(layer: nn.Module, inputs: tuple) -> None:
        calls[layer] += 1
        convolution, version, _ = written.get(id(inputs[0]), (None, 0, None))
        if convolution is not None and inputs[0]._version == version:
            pairs[layer] = convolution

    hooks = [
        *(
            layer.register_forward_hook(convolved)
            for layer in model.modules()
            if isinstance(layer, nn.Conv2d)
        ),
        *(
            layer.register_forward_pre_hook(normalised)
            for layer in model.modules()
            if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)
        ),
    ]
    with torch.no_grad():
        model(next(model.parameters()).new_zeros(1, channels, 64, 64))
    for hook in hooks:
        hook.remove()
    readers = Counter(pairs.values())
    places = {layer: name for name, layer in model.named_modules()}
    for norm, convolution in pairs.items():
        if calls[norm] == calls[convolution] == readers[convolution] == 1:
            model.set_submodule(places[convolution], fuse_conv_bn_eval(convolution, norm))
            model.set_submodule(places[norm], getattr(norm, "act", nn.Identity()))
    return model
