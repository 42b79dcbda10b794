"""Weights of others → a backbone: from timm's hub, or a file that may name its tensors in its own way."""

from pathlib import Path

import torch

from . import torchvision_shim  # noqa: F401  before timm

import timm  # isort: skip

Weights = dict[str, torch.Tensor]


def load_pretrained(target: Weights, source: str, hub_name: str | None = None) -> None:
    """Copy the weights of `source` into the tensors of a backbone's state dict.

    source: hub, for those of timm's network `hub_name`, or the path of a file.
    Raises ValueError that says what to do where they cannot be had or do not fit.
    """
    copy_weights(target, from_hub(hub_name) if source == "hub" else read_weights(Path(source)), source)


def from_hub(name: str) -> Weights:
    """The published weights of timm's network of that name. Raises ValueError where it cannot be reached."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises whatever its network layer raises
        raise ValueError(
            f"the weights of {name} could not be fetched from the hub ({type(error).__name__}); "
            "set pretrained: none, or the path of a file of weights"
        ) from error


def read_weights(path: Path) -> Weights:
    """A state dict from .safetensors or .pth. Raises ValueError where the file is not one."""
    if not path.is_file():
        raise ValueError(f"pretrained: {path} is not a file; use none, hub or the path of a file of weights")
    try:
        weights = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # anything can be wrong with a file
        raise ValueError(f"{path}: not a file of weights, .pth or .safetensors ({error})") from error
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path}: not a state dict (tensors by name)")
    return weights


def copy_weights(target: Weights, weights: Weights, source: str) -> None:
    """Copy by name; where the names differ, by order, if all shapes agree in order.

    Dots and underscores in names are one: timm's networks of features name `stages_0` what is `stages.0`.
    What `weights` holds beyond the backbone (a classifier at the end) is left out. Input channels of the
    first convolution that they do not know (the mask) start at zero, without influence.
    """
    target, weights = (
        {
            name.replace(".", "_"): tensor
            for name, tensor in tensors.items()
            if not name.endswith("num_batches_tracked")
        }
        for tensors in (target, weights)
    )
    if not set(target) <= set(weights):
        if len(weights) < len(target):
            raise ValueError(
                f"{source}: {len(weights)} tensors, the backbone has {len(target)}; take its own file"
            )
        weights = dict(zip(target, weights.values(), strict=False))
    first = next(iter(target))
    weights = {name: weights[name] for name in target}
    missing = target[first].shape[1] - weights[first].shape[1] if weights[first].ndim == 4 else 0
    if missing > 0:
        weights[first] = torch.nn.functional.pad(weights[first], (0, 0, 0, 0, 0, missing))
    for name, tensor in target.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: its tensors are not those of this backbone: {name} is "
                f"{tuple(weights[name].shape)} there, {tuple(tensor.shape)} here; check backbone and width"
            )
    for name, tensor in target.items():
        tensor.copy_(weights[name])
