"""Build the network of a training configuration, and save and load checkpoints.

A checkpoint is the result of a training: network weights, training configuration and provenance in one file.
"""

import hashlib
import io
import pickle
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from carpose.config.keys import section_schema
from carpose.config.messages import problems
from carpose.config.train_config import TrainConfig
from carpose.core import version
from carpose.core.errors import UserError
from carpose.core.files import atomic, truncate
from carpose.heads.head import make_heads
from carpose.registry import resolve
from carpose.registry.backbones import NECKS, backbone_of, published_name
from models.build import build_model

AGAIN = "delete it, and the same command trains the model again"


def build(train_config: TrainConfig) -> torch.nn.Module:
    """The network of a training configuration, with random or pretrained weights.

    The random weights depend on train_config.seed. Raises UserError if the network cannot be built.
    """
    entry = backbone_of(train_config.backbone)
    hub_name = (
        published_name(train_config.backbone, train_config.width) if train_config.pretrained == "hub" else ""
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
    path: Path, state_dict: dict[str, torch.Tensor], train_config: TrainConfig, provenance: dict
) -> None:
    """Write network weights, training configuration and provenance; equal content gives equal bytes."""
    content = {
        # Cloned, because torch.save writes the whole storage that a view belongs to.
        "weights": {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in state_dict.items()
        },
        "train_config": asdict(train_config),
        "provenance": {**version.provenance(), **provenance},
    }
    buffer = io.BytesIO()  # torch's own file writer hides the reason of an OSError
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of the network weights: names, shapes, dtypes and values."""
    hasher = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hasher.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def load_checkpoint(path: Path, fold: int | None = None) -> tuple[torch.nn.Module, TrainConfig, dict]:
    """The trained network, its training configuration and its provenance.

    fold: the fold whose photos the network must not have been trained on. Raises UserError naming the file if
    it is not a valid checkpoint, or one of another fold.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not compare them
            if damaged := archive.testzip():
                raise ValueError(f"its part {damaged} is damaged")
        content = dict(torch.load(path, map_location="cpu", weights_only=True))
        train_config, provenance = TrainConfig(**content["train_config"]), dict(content["provenance"])
        plain = replace(train_config, pretrained="none")
        if invalid := problems(asdict(plain), section_schema(TrainConfig)):
            raise ValueError(invalid[0])
        model = build(plain)
        _check_weights(content["weights"])
        model.load_state_dict(content["weights"])
    except FileNotFoundError:
        raise UserError(f"{path}: file not found") from None
    except MemoryError:
        raise  # says nothing about the content of the file
    except OSError as error:
        if error.filename is not None:  # nor does this, such as a missing right
            raise
        raise UserError(f"{path}: not readable ({error}); {AGAIN}") from error
    except pickle.UnpicklingError:  # torch's message recommends to load it all the same
        reason = "UnpicklingError: it has other objects than tensors, numbers and texts, which might run code"
        raise UserError(f"{path}: not a checkpoint of this version ({reason}); {AGAIN}") from None
    except Exception as error:  # torch.load raises many types for invalid files
        reason = f"{type(error).__name__}: {truncate(str(error))}"
        raise UserError(f"{path}: not a checkpoint of this version ({reason}); {AGAIN}") from error
    version.remember_use(path, provenance)
    if fold is not None and (trained := provenance.get("fold", fold)) != fold:
        raise UserError(
            f"{path}: is the model of fold {trained}, but that of fold {fold} is needed: this one was "
            f"trained on fold {fold}'s photos; name the checkpoint of fold {fold}"
        )
    return model, train_config, provenance


def _check_weights(state_dict: dict[str, torch.Tensor]) -> None:
    """Raises ValueError where a tensor holds other numbers than finite real ones."""
    for name, tensor in state_dict.items():
        if tensor.is_complex() or not tensor.isfinite().all():
            raise ValueError(f"network weights not finite: {name}")


def build_from(path: Path, fold: int, train_config: TrainConfig) -> torch.nn.Module:
    """The network of a training configuration with the weights of a checkpoint of the same fold.

    Raises UserError naming the file if it has another architecture, or is a checkpoint of another fold.
    """
    model = build(train_config)
    try:
        model.load_state_dict(load_checkpoint(path, fold)[0].state_dict())
    except RuntimeError:
        advice = "train it again, or set start: scratch"
        raise UserError(f"{path}: has another network than the training configuration; {advice}") from None
    return model
