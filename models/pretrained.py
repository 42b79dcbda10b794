"""Load pretrained weights into a backbone, from timm's hub or from a file, whose tensor names may differ."""

from pathlib import Path

import torch

from . import torchvision_shim  # noqa: F401  before timm

import timm  # isort: skip

StateDict = dict[str, torch.Tensor]


def load_pretrained(target: StateDict, source: str, hub_name: str = "") -> None:
    """Copy pretrained weights into the tensors of a backbone's state dict.

    source: hub (the weights of timm's network `hub_name`), or the path of a file. Raises ValueError if they
    cannot be loaded or do not fit.
    """
    copy_weights(target, from_hub(hub_name) if source == "hub" else read_weights(Path(source)), source)


def from_hub(name: str) -> StateDict:
    """The published weights of timm's network `name`. Raises ValueError if they cannot be downloaded."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises whatever its network layer raises
        raise ValueError(
            f"the weights of {name} could not be fetched from the hub ({type(error).__name__}); "
            "set pretrained: none, or the path of a weights file"
        ) from error


def read_weights(path: Path) -> StateDict:
    """Read a state dict from a .safetensors or .pth file. Raises ValueError if it is not one."""
    if not path.is_file():
        raise ValueError(f"pretrained: {path} is not a file; use none, hub or the path of a weights file")
    try:
        state_dict = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # many types for invalid files
        if "weights_only" in str(error):  # the message recommends to load it all the same
            reason = "it has other objects than tensors, which might run code; save it as .safetensors"
            raise ValueError(f"{path}: not a weights file (.pth or .safetensors): {reason}") from None
        raise ValueError(f"{path}: not a weights file (.pth or .safetensors): {error}") from error
    if not state_dict or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"{path}: not a state dict (tensors by name)")
    return state_dict


def copy_weights(target: StateDict, pretrained: StateDict, source: str) -> None:
    """Copy tensors by name or, if names differ, in their order, if all shapes agree; source: for messages.

    Dots and underscores in names are the same: timm's `stages.0` is `stages_0` in its feature extractors.
    Further tensors of `pretrained` (a classifier) are ignored. Additional input channels of the first
    convolution (the mask) get weights of zero. Raises ValueError, and copies nothing, if tensors do not fit.
    """
    target, pretrained = (
        {
            name.replace(".", "_"): tensor
            for name, tensor in tensors.items()
            if not name.endswith("num_batches_tracked")
        }
        for tensors in (target, pretrained)
    )
    if not set(target) <= set(pretrained):
        if len(pretrained) < len(target):
            raise ValueError(
                f"{source}: {len(pretrained)} tensors, the backbone has {len(target)}; check backbone"
            )
        pretrained = dict(zip(target, pretrained.values(), strict=False))
    first = next(iter(target))
    pretrained = {name: pretrained[name] for name in target}
    missing = target[first].shape[1] - pretrained[first].shape[1] if pretrained[first].ndim == 4 else 0
    if missing > 0:
        pretrained[first] = torch.nn.functional.pad(pretrained[first], (0, 0, 0, 0, 0, missing))
    for name, tensor in target.items():
        if pretrained[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: the tensors do not fit the backbone: {name} has shape "
                f"{tuple(pretrained[name].shape)}, {tuple(tensor.shape)} is needed; check backbone and width"
            )
    for name, tensor in target.items():
        tensor.copy_(pretrained[name])
