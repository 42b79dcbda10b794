"""Weights of others: from timm's hub, or from a file that may name its tensors in its own way."""

from pathlib import Path

import timm
import torch
from carpose import UserError
from torch import nn

# The variants whose weights this project trains on; the hub's default tag of each.
HUB_NAME = {f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in range(5)} | {
    f"efficientnet_b{i}": f"tf_efficientnet_b{i}" for i in range(5, 8)
}


def load_pretrained(encoder: nn.Module, backbone: str, width: float, source: str) -> None:
    """Load `source` (hub, or a path) into the encoder. Raises UserError that says what to do."""
    if width != 1:
        raise UserError(
            f"pretrained weights of {backbone} are for width 1, not {width:g}; set pretrained: none"
        )
    if source == "hub":
        name = HUB_NAME.get(backbone, backbone)
        try:
            weights = timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # the hub's client raises whatever its network layer raises
            raise UserError(
                f"the weights of {name} could not be fetched from the hub ({type(error).__name__}); "
                "set pretrained: none, or the path of a file of weights"
            ) from error
    else:
        weights = read_weights(Path(source))
    copy_weights(encoder, weights, source)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors or .pth. Raises UserError where the file is not one."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a file of weights ({error})") from error
    return weights.get("state_dict", weights)


def copy_weights(encoder: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy by name; where the names differ, by order, if all shapes agree in order."""
    own = {name: t for name, t in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    if not set(own) <= set(weights):
        pairs = list(zip(own, weights.values(), strict=False))
        if len(weights) < len(own) or any(own[name].shape[2:] != t.shape[2:] for name, t in pairs):
            raise UserError(f"{source}: its tensors are not those of this backbone, by name or by order")
        weights = dict(pairs)
    for name, tensor in own.items():
        value = weights[name]
        if value.ndim == 4 and value.shape[1] < tensor.shape[1] and value.shape[0] == tensor.shape[0]:
            # More input channels than the weights know (mask, coordinates): these start without influence.
            wider = torch.zeros_like(tensor)
            wider[:, : value.shape[1]] = value
            value = wider
        if value.shape != tensor.shape:
            raise UserError(f"{source}: {name} is {tuple(value.shape)}, the network's {tuple(tensor.shape)}")
        tensor.copy_(value)
