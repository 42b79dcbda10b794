"""A recipe's network: built from what the registry says of backbone, neck and heads, saved, loaded.

A checkpoint is the result of a training: weights, recipe and where they came from, in one file.
"""

import hashlib
import io
from dataclasses import asdict, replace
from pathlib import Path

import torch

from carpose.config.train_config import TrainConfig
from carpose.core import version
from carpose.core.errors import UserError
from carpose.core.files import atomic, truncate
from carpose.heads.head import make_heads
from carpose.registry import resolve
from carpose.registry.backbones import NECKS, backbone_of, published_name
from models.build import build_model


def build(train_config: TrainConfig) -> torch.nn.Module:
    """The recipe's network, with fresh (or pretrained) weights. Raises UserError where it cannot be made."""
    entry = backbone_of(train_config.backbone)
    hub_name = (
        published_name(train_config.backbone, train_config.width)
        if train_config.pretrained == "hub"
        else None
    )
    neck = entry.neck and (train_config.neck or entry.neck)
    torch.manual_seed(train_config.seed)
    try:
        network = build_model(
            resolve(entry.builder),
            resolve(NECKS[neck]) if neck else None,
            heads={name: head.channels for name, head in make_heads(train_config).items()},
            width=train_config.width,
            neck_channels=train_config.neck_channels,
            norm=train_config.norm,
            in_channels=4 if train_config.mask_channel else 3,
            pretrained=train_config.pretrained,
            hub_name=hub_name,
            **entry.options,
            **{key: getattr(train_config, key) for key in entry.keys},
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return network.to(memory_format=torch.channels_last)


def save_checkpoint(
    path: Path, weights: dict[str, torch.Tensor], train_config: TrainConfig, provenance: dict
) -> None:
    """Write weights (on the CPU), recipe and provenance; the same content gives the same bytes."""
    content = {
        # Copies: a tensor that is a part of a longer one would be written with all of that.
        "weights": {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in weights.items()
        },
        "train_config": asdict(train_config),
        "provenance": {**version.provenance(), **provenance},
    }
    buffer = io.BytesIO()  # torch's own writer hides why a file could not be written
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def weights_digest(model: torch.nn.Module) -> str:
    """A hash of the weights alone, whatever code saved them."""
    hasher = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hasher.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def load_checkpoint(path: Path, fold: int | None = None) -> tuple[torch.nn.Module, TrainConfig, dict]:
    """The network with its weights, its recipe, its provenance. Raises UserError naming the file.

    fold: whose photos the network must not have learnt from; a checkpoint of another fold is refused.
    """
    try:
        content = dict(torch.load(path, map_location="cpu", weights_only=True))
        train_config, provenance = TrainConfig(**content["train_config"]), dict(content["provenance"])
        model = build(replace(train_config, pretrained="none"))
        model.load_state_dict(content["weights"])
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (PermissionError, MemoryError):
        raise  # the file is not to blame
    except Exception as error:  # anything can be wrong with a file
        reason = f"{type(error).__name__}: {truncate(str(error))}"
        raise UserError(f"{path}: not a checkpoint of this version ({reason}); train it again") from error
    version.remember_use(path, provenance)
    if fold is not None and (trained := provenance.get("fold", fold)) != fold:
        raise UserError(
            f"{path}: is the model of fold {trained} given as fold {fold}'s, whose photos it has learnt from;"
            f" name the checkpoint of fold {fold}"
        )
    return model, train_config, provenance


def build_from(path: Path, fold: int, train_config: TrainConfig) -> torch.nn.Module:
    """The recipe's network with the weights of a checkpoint, for a training of this fold.

    Raises UserError naming the file where it holds another network, or one of another fold.
    """
    model = build(train_config)
    try:
        model.load_state_dict(load_checkpoint(path, fold)[0].state_dict())
    except RuntimeError:
        advice = "train it again, or take start: scratch"
        raise UserError(f"{path}: holds another network than this recipe describes; {advice}") from None
    return model
