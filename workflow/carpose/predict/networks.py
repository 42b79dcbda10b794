"""Trained networks as they predict: loaded from checkpoints, one of each fold, and put where they compute."""

from collections.abc import Sequence
from pathlib import Path

import torch

from carpose.config.recipe import Recipe
from carpose.core.errors import UserError
from carpose.core.version import note_other_code
from carpose.network.checkpoint import load_checkpoint
from carpose.network.graphs import Replayed
from models.folding import fold_batch_norms
from models.predictor import Predictor


def placed(
    model: torch.nn.Module, recipe: Recipe, device: torch.device, runtime: str = "torch", graphs: bool = True
) -> torch.nn.Module:
    """A copy of the network as and where it will predict: a Predictor, or what works like it.

    runtime: torch, or openvino, which is for the CPU alone; graphs: on a GPU as a CUDA graph.
    """
    if runtime == "openvino" and device.type == "cpu":
        from .openvino import Network  # here: what it imports is optional

        return Network(model, recipe)
    folded = fold_batch_norms(model, 4 if recipe.mask_channel else 3)
    predictor = Predictor(folded).to(device, memory_format=torch.channels_last)
    return Replayed(predictor) if graphs and device.type == "cuda" else predictor


def load_networks(
    checkpoints: Sequence[Path], device: torch.device, runtime: str = "torch", graphs: bool = True
) -> tuple[list[torch.nn.Module], Recipe]:
    """Checkpoints of fold 0, 1, … of one model → its networks, and their recipe.

    runtime, graphs: as in `placed`. Raises UserError where a checkpoint is another fold's, where recipes
    differ, or where the runtime is not installed. Says so where other code than this trained one.
    """
    networks, recipes, made = [], [], {}
    for fold, path in enumerate(checkpoints):
        model, recipe, provenance = load_checkpoint(path)
        if (trained := provenance.get("fold", fold)) != fold:
            raise UserError(
                f"{path}: is the model of fold {trained} given as fold {fold}'s, whose photos it knows;"
                " name the checkpoints of fold 0, 1, … in order"
            )
        if recipes and recipe != recipes[0]:
            raise UserError(f"{path}: its recipe differs from {checkpoints[0]}'s; retrain one of them")
        networks.append(placed(model, recipe, device, runtime, graphs))
        recipes.append(recipe)
        made[path] = provenance
    note_other_code(made, "-R train")
    return networks, recipes[0]
