"""The recipe of one model: every choice that its weights depend on, with a help text and a default.

The fields are the options of `python -m carpose.train` and the keys under `train:` and `models:` of the
configuration; Snakemake passes the ones that are set, so a recipe can be read off any log.
"""

import argparse
import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal


def _option(default, text: str, choices: list[str] | None = None):
    metadata = {"help": text, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def on_hub(backbone: str, width: float) -> bool:
    """Whether there are published weights of it."""
    return backbone != "hourglass" and width == 1


@dataclass(frozen=True)
class Recipe:
    # The network
    backbone: str = _option("dla34", "efficientnet_b0 … b7, efficientnet_lite0 … lite4, dla34 or hourglass")
    width: float = _option(1.0, "factor on all channels of the backbone")
    neck: str = _option("", "up-sampling neck; empty: the backbone's own default")
    neck_channels: int = _option(64, "channels of the neck's output")
    stacks: int = _option(2, "hourglass only: number of stacks")
    modules: int = _option(2, "hourglass only: residual blocks per scale; 2 in Hourglass-104")
    norm: str = _option("batch", "normalisation layers", ["batch", "group"])
    pretrained: str = _option("none", "none, hub, or the path of a file of weights")
    coordinates: bool = _option(False, "add two channels with the pixel's place in the picture")
    mask_channel: bool = _option(False, "feed the mask of uninteresting cars as a fourth channel")
    # The network's view of a photo
    input_width: int = _option(1536, "pixels, a multiple of 32")
    input_height: int = _option(512, "pixels, a multiple of 32")
    crop: list = _option([0.0, 0.5, 1.0, 1.0], "left top right bottom, fractions of the photo; may pad")
    level_deg: float = _option(
        0.0, "degrees by which the camera is rolled against the road: the picture is turned back"
    )
    perspective: float = _option(
        0.0, "enlarge the rows at the top (the distance) of the input by 1 + this, shrink the bottom"
    )
    resize: str = _option(
        "none",
        "input size of a training: the full one, rising to it, or drawn for each batch",
        ["none", "progressive", "random"],
    )
    resize_from: float = _option(0.5, "smallest input size of `resize`, a fraction of the full one")
    leave_out: str = _option("", "photos not to learn from: ImageIds with commas between")
    # Augmentation (all exact: see carpose.augment)
    flip: float = _option(0.5, "probability of a mirror")
    flip_about: str = _option(
        "camera", "mirror about the camera's centre cx (exact), or the usual way", ["camera", "middle"]
    )
    rotate_deg: list = _option([5.0, 2.0, 5.0], "camera rotation: pan, tilt, roll, at most ± degrees")
    zoom: float = _option(0.1, "scale by a factor of at most 1 ± this, folded into the intrinsics")
    shift: float = _option(0.02, "shift by at most ± this fraction of the input, folded into the intrinsics")
    colour: float = _option(0.5, "strength of brightness, contrast, hue, noise and blur, 0 … 1")
    colour_kind: str = _option(
        "all", "all of it or one alone", ["all", "brightness", "contrast", "hue", "gamma", "noise", "blur"]
    )
    # Targets
    depth: str = _option("log", "what the depth head predicts", ["log", "direct", "inverse", "sigmoid"])
    height_cue: bool = _option(
        False, "predict the apparent height too: a second depth, merged by uncertainty"
    )
    position: str = _option(
        "ray", "x and y from centre and depth, or regressed in metres", ["ray", "regressed"]
    )
    rotation: str = _option("angles", "what the rotation head predicts", ["angles", "quaternion"])
    yaw: str = _option(
        "egocentric", "yaw in the camera's frame or relative to the ray", ["egocentric", "allocentric"]
    )
    pitch_roll: str = _option("regressed", "pitch and roll of a car", ["regressed", "constant"])
    constant_pitch: float = _option(0.155, "radians, where pitch_roll is constant")
    constant_roll: float = _option(3.1416, "radians, where pitch_roll is constant")
    radius_rule: str = _option(
        "apparent", "peaks as wide as cars appear, or all like one at 35 m", ["apparent", "fixed"]
    )
    radius: float = _option(0.3, "σ of a heat-map peak as a fraction of the car's apparent height")
    regression_radius: int = _option(1, "cells around a centre that learn its depth and rotation")
    ignore_masks: bool = _option(True, "leave masked regions out of the heat-map loss")
    # Losses
    loss_balance: str = _option(
        "fixed",
        "weights as given, or learned from there (Kendall et al. 2018); likelihoods keep theirs",
        ["fixed", "learned"],
    )
    heatmap_loss: str = _option("focal", "loss of the heat map", ["focal", "bce"])
    heatmap_weight: float = _option(2.0, "weight of the heat-map loss")
    offset_weight: float = _option(4.0, "weight of the sub-cell offset's loss")
    depth_weight: float = _option(0.7, "weight of the depth loss")
    rotation_weight: float = _option(30.0, "weight of the rotation loss")
    depth_uncertainty: bool = _option(True, "predict a Laplace scale with the depth and weigh by it")
    depth_beta: float = _option(
        0.0, "with uncertainty: an error weighs by its scale to this power, 0 … 1 (Seitzer et al. 2022)"
    )
    # Optimisation
    epochs: int = _option(
        30, "epochs of round 0; an epoch draws as many samples as there are labelled photos"
    )
    retrain_epochs: int = _option(15, "epochs of every later round")
    batch_size: int = _option(8, "photos per step")
    accumulate: int = _option(1, "forward passes per step, each with its part of the batch: less memory")
    optimizer: str = _option(
        "adamw",
        "muon is carpose.muon, the others are timm's",
        [
            "muon",
            "adamw",
            "adam",
            "nadamw",
            "radam",
            "adan",
            "adopt",
            "lamb",
            "lion",
            "sgd",
            "rmsprop",
            "madgrad",
        ],
    )
    schedule: str = _option(
        "cosine",
        "how the learning rate falls after the warm-up: schedules of timm",
        ["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"],
    )
    lr: float = _option(5e-4, "peak learning rate of round 0")
    lr_scaling: str = _option(
        "none",
        "learning rates are for lr_batch_size; scale them with batch_size",
        ["none", "sqrt", "linear"],
    )
    lr_batch_size: int = _option(8, "the batch size that lr and retrain_lr are meant for, see lr_scaling")
    retrain_lr: float = _option(3e-4, "peak learning rate of every later round")
    weight_decay: float = _option(1e-2, "weight decay")
    warmup: float = _option(0.05, "share of the steps in which the rate rises, before it falls")
    clip_norm: float = _option(10.0, "gradients are clipped to this norm")
    ema_decay: float = _option(0.998, "decay of the moving average of weights that is the result")
    retrain_start: str = _option(
        "warm", "later rounds go on from the round before, or start anew", ["warm", "scratch"]
    )
    pseudo_share: float = _option(0.5, "later rounds: share of the samples drawn from pseudo-labelled photos")
    student: float = _option(1.0, "later rounds: factor on the augmentation of pseudo-labelled photos")
    nan: str = _option(
        "stop", "when a loss is not finite: stop, or go back one state at half the rate", ["stop", "back"]
    )
    amp: str = _option("auto", "number format of the forward pass", ["auto", "off", "bf16", "fp16"])
    threads: int = _option(1, "torch threads on the CPU; another number gives other weights")
    seed: int = _option(0, "seed of weights, order and augmentation")
    recipe: int = _option(0, "raise it by hand to train anew without another change")

    def digest(self) -> str:
        """A short hash of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


GRID = (
    *("input_width", "input_height", "crop", "level_deg", "perspective"),
    *("depth", "depth_uncertainty", "height_cue", "position"),
    *("rotation", "yaw", "pitch_roll", "constant_pitch", "constant_roll"),
)


def grid_of(recipe: Recipe) -> dict:
    """What a cell's outputs mean: models that agree in it can have their maps averaged."""
    return {name: getattr(recipe, name) for name in GRID}


def recipe_of(config: dict, model: str) -> tuple[dict, int]:
    """A model of the configuration → its recipe's settings, and how many GPUs share its training.

    The number of GPUs is no part of the recipe: it changes nothing but rounding.
    """
    settings = {**config["train"], **config["models"][model]}
    return settings, settings.pop("gpus", 1)


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option per field of Recipe."""
    group = parser.add_argument_group("recipe")
    for item in fields(Recipe):
        default = item.default_factory() if item.type is list else item.default
        kwargs = {"help": item.metadata["help"], "default": default, "choices": item.metadata["choices"]}
        if item.type is bool:
            kwargs = {"help": kwargs["help"], "default": default, "type": _boolean, "metavar": "true|false"}
        elif item.type is list:
            kwargs |= {"type": float, "nargs": len(default)}
        else:
            kwargs |= {"type": item.type}
        group.add_argument(f"--{item.name.replace('_', '-')}", **kwargs)


def from_options(args: argparse.Namespace) -> Recipe:
    return Recipe(**{item.name: getattr(args, item.name) for item in fields(Recipe)})


def command_line(settings: dict) -> str:
    """Recipe settings → options of carpose.train that say the same, for a shell; refuses unknown names."""
    known = {item.name for item in fields(Recipe)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"unknown recipe keys: {', '.join(unknown)}")
    words = []
    for name, value in settings.items():
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, bool):
            words.append("true" if value else "false")
        elif isinstance(value, list):
            words += [str(plain(item)) for item in value]
        else:
            words.append(str(plain(value)))
    return shlex.join(words)


def plain(value):
    """The same, as text where it would have an exponent: argparse takes -1e-05 for an option, but -0.00001
    for a number."""
    return format(Decimal(repr(value)), "f") if isinstance(value, float) and "e" in repr(value) else value


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text.lower() == "true"
