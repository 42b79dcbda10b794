"""Weights of others → a backbone: from timm's hub, or a file that may name its tensors in its own way."""

from pathlib import Path

import timm
import torch

from carpose import UserError
from carpose.recipe import on_hub

from .efficientnet import published_name


def load_pretrained(own: dict[str, torch.Tensor], backbone: str, width: float, source: str) -> None:
    """Copy the weights of `source` (hub, or a path) into the tensors of a backbone's state dict.

    Raises UserError that says what to do where they cannot be had or do not fit.
    """
    copy_weights(own, from_hub(backbone, width) if source == "hub" else read_weights(Path(source)), source)


def from_hub(backbone: str, width: float) -> dict[str, torch.Tensor]:
    """The published ImageNet weights. Raises UserError where there are none or the hub is out of reach."""
    remedy = "set pretrained: none, or the path of a file of weights"
    if not on_hub(backbone, width):
        raise UserError(f"the hub has no weights of {backbone} at width {width:g}; {remedy}")
    name = published_name(backbone)
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises whatever its network layer raises
        raise UserError(
            f"the weights of {name} could not be fetched from the hub ({type(error).__name__}); {remedy}"
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors or .pth. Raises UserError where the file is not one."""
    if not path.is_file():
        raise UserError(f"pretrained: {path} is not a file; use none, hub or the path of a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = dict(weights.get("state_dict", weights))
    except Exception as error:  # anything can be wrong with a file
        raise UserError(f"{path}: not a file of weights, .pth or .safetensors ({error})") from error
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: not a state dict (tensors by name)")
    return weights


def copy_weights(own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy by name; where the names differ, by order, if all shapes agree in order.

    What `weights` holds beyond the backbone (a classifier at the end) is left out. Input channels of the
    first convolution that they do not know (mask, coordinates) start at zero, without influence.
    """
    own, weights = (
        {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        for tensors in (own, weights)
    )
    if not set(own) <= set(weights):
        if len(weights) < len(own):
            raise UserError(
                f"{source}: {len(weights)} tensors, the backbone has {len(own)}; take its own file"
            )
        weights = dict(zip(own, weights.values(), strict=False))
    first = next(iter(own))
    weights = {name: weights[name] for name in own}
    missing = own[first].shape[1] - weights[first].shape[1] if weights[first].ndim == 4 else 0
    if missing > 0:
        weights[first] = torch.nn.functional.pad(weights[first], (0, 0, 0, 0, 0, missing))
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{source}: its tensors are not those of this backbone: {name} is "
                f"{tuple(weights[name].shape)} there, {tuple(tensor.shape)} here; check backbone and width"
            )
    for name, tensor in own.items():
        tensor.copy_(weights[name])
