"""The result of a training: weights, recipe and where they came from, in one file."""

import functools
import io
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch

from models import build_model

from . import UserError, __version__, codec
from .files import atomic, brief
from .recipe import Recipe


def build(recipe: Recipe) -> torch.nn.Module:
    """The recipe's network, with fresh (or pretrained) weights."""
    torch.manual_seed(recipe.seed)
    model = build_model(
        recipe.backbone,
        heads=codec.heads(recipe),
        width=recipe.width,
        neck=recipe.neck or None,
        neck_channels=recipe.neck_channels,
        stacks=recipe.stacks,
        modules=recipe.modules,
        norm=recipe.norm,
        in_channels=4 if recipe.mask_channel else 3,
        coordinates=recipe.coordinates,
        pretrained=recipe.pretrained,
    )
    return model.to(memory_format=torch.channels_last)


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor], recipe: Recipe, provenance: dict) -> None:
    """Write weights (on the CPU), recipe and provenance; the same content gives the same bytes."""
    content = {
        # Copies: a tensor that is a part of a longer one would be written with all of that.
        "weights": {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in weights.items()
        },
        "recipe": asdict(recipe),
        "provenance": {"code": code_version(), **provenance},
    }
    buffer = io.BytesIO()  # torch's own writer hides why a file could not be written
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> tuple[torch.nn.Module, Recipe, dict]:
    """The network with its weights, its recipe, its provenance. Raises UserError naming the file."""
    try:
        content = dict(torch.load(path, map_location="cpu", weights_only=True))
        recipe, provenance = Recipe(**content["recipe"]), dict(content["provenance"])
        model = build(Recipe(**{**asdict(recipe), "pretrained": "none"}))
        model.load_state_dict(content["weights"])
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (PermissionError, MemoryError):
        raise  # the file is not to blame
    except Exception as error:  # anything can be wrong with a file
        reason = f"{type(error).__name__}: {brief(str(error))}"
        raise UserError(f"{path}: not a checkpoint of this version ({reason}); train it again") from error
    return model, recipe, provenance


@functools.cache
def code_version() -> str:
    """The commit of the code (with `-dirty` where files differ), or the package's version."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+{answer.stdout.strip()}"
