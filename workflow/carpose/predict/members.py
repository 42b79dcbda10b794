"""Checkpoints → members: networks of one training configuration, whose outputs are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.data.training_camera import TrainingCamera
from carpose.network.checkpoint import load_checkpoint

from .networks import prepare_for_inference


@dataclass(frozen=True)
class Member:
    """Networks of one training configuration and camera, such as those of all folds of a model."""

    name: str  # as the fusion's fit calls it
    networks: list[torch.nn.Module]
    train_config: TrainConfig
    camera: TrainingCamera


def load_members(
    arguments: Sequence[str],
    device: torch.device,
    runtime: str = "torch",
    cuda_graphs: bool = True,
) -> list[Member]:
    """Arguments `PATH` or `NAME=PATH` → members in the order of their first checkpoints.

    Checkpoints with one training configuration and camera are one member, unless they are given different
    names. runtime, cuda_graphs: as in `prepare_for_inference`. Raises UserError where a checkpoint cannot be
    used, or those given one name differ.
    """
    members: dict[tuple, Member] = {}
    for argument in arguments:
        given, equals, path = argument.partition("=")
        if not equals:
            given, path = "", argument
        if not path or (equals and not given):
            raise UserError(f"{argument!r}: give each checkpoint as PATH, or NAME=PATH")
        model, train_config, provenance = load_checkpoint(Path(path))
        camera = camera_of(Path(path), provenance)
        name = given or name_of(Path(path))
        # Checkpoints without a given name are told apart by what they are, not by their folders.
        key = given, train_config.digest(), str(camera.to_json())
        if key not in members:
            names = [member.name for member in members.values()]
            if given in names:
                text = "named by its path alone, or of another training configuration or camera"
                raise UserError(
                    f"{argument}: {given} is the name of an earlier checkpoint, {text}; rename it"
                )
            members[key] = Member(path if name in names else name, [], train_config, camera)
        members[key].networks.append(prepare_for_inference(model, train_config, device, runtime, cuda_graphs))
    return list(members.values())


def name_of(path: Path) -> str:
    """…/round0/dla34/fold1/model.pt → round0/dla34, as the workflow names its members; else the stem."""
    *_, model_round, model, fold, file = ["", "", "", *path.resolve().parts]
    workflow = file == "model.pt" and fold.startswith("fold") and model_round.startswith("round")
    return f"{model_round}/{model}" if workflow else path.stem


def camera_of(path: Path, provenance: dict) -> TrainingCamera:
    """The camera that a checkpoint was trained with. Raises UserError naming the file where it is invalid."""
    try:
        return TrainingCamera.from_json(provenance["camera"])
    except (KeyError, TypeError, ValueError) as error:
        text = f"the camera in it is missing or invalid ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {text}; train it again") from error
