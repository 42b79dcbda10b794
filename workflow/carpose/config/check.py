"""Check the configuration before anything runs. Every error names the key and says what is valid."""

from collections import defaultdict
from importlib.util import find_spec
from typing import Any

from carpose.core.errors import UserError
from carpose.geometry import camera
from carpose.registry.backbones import backbone_of, on_hub

from .load import gpus_of, models_of, train_configs, train_settings
from .messages import problems
from .schema import config_schema
from .sections import Cache, Pseudo
from .train_config import NETWORK


def check(config: dict) -> None:
    """Raises UserError with one line per error of the configuration."""
    # The later checks compare values, so they run only if all keys and types are valid.
    lines = _non_text_keys(config) or problems(config, config_schema()) or contradictions(config)
    if lines:
        raise UserError("the configuration is not valid\n  " + "\n  ".join(lines))


def _non_text_keys(content: Any, above: str = "") -> list[str]:
    """YAML reads the keys 5 and no as a number and a boolean."""
    if not isinstance(content, dict):
        return []
    lines = [
        f"{above}{key}: keys must be text; put it in quotes" for key in content if not isinstance(key, str)
    ]
    return lines + [line for key, part in content.items() for line in _non_text_keys(part, f"{above}{key}.")]


def contradictions(config: dict) -> list[str]:
    """Errors that the schema cannot express: one line per key that contradicts another, or this machine."""
    if not models_of(config):
        return ["models: at least one model is needed"]
    return list(dict.fromkeys(line for check_part in CHECKS for line in check_part(config)))


def _check_rounds(config: dict) -> list[str]:
    rounds, fused = config["rounds"], config["fuse"].get("rounds", "all")
    return [
        f"fuse.rounds: there is no round {r}; rounds is {rounds}, so use 0 … {rounds - 1}"
        for r in ([] if fused == "all" else fused)
        if r >= rounds
    ]


def _check_models(config: dict) -> list[str]:
    lines = []
    for name in models_of(config):
        if "backbone" not in train_settings(config, name):
            lines.append(f"models.{name}.backbone: is missing; name the network, such as backbone: dla34")
        gpus = gpus_of(config, name)
        for train_config in train_configs(config, name):
            if train_config.batch_size % max(gpus, 1):
                text = f"{gpus} GPUs cannot share batches of {train_config.batch_size} photos equally"
                lines.append(f"models.{name}: {text}; make batch_size a multiple of gpus")
            if backbone_of(train_config.backbone).fixed_width and train_config.width != 1:
                lines.append(f"models.{name}.width: {train_config.backbone} has only width 1; set width: 1")
            elif train_config.pretrained == "hub" and not on_hub(train_config.backbone, train_config.width):
                lines.append(
                    f"models.{name}.pretrained: the hub has no weights of {train_config.backbone} at width"
                    f" {train_config.width:g}; use none, or the path of a file of weights"
                )
    return lines


def _check_warm_starts(config: dict) -> list[str]:
    """A training that starts with the network weights of the round before needs the same network."""
    models = defaultdict(list)
    for name in models_of(config):
        first, *later = train_configs(config, name)
        for train_config in later if later and later[0].start == "warm" else []:
            for key in NETWORK:
                if getattr(first, key) != getattr(train_config, key):
                    models[key].append(name)
    return [
        f"retrain: {key} of {', '.join(names)} differs from the first round's, whose weights it starts with;"
        " use the same value, or start: scratch"
        for key, names in models.items()
    ]


def _check_crops(config: dict) -> list[str]:
    cached = Cache(**config["cache"]).crop
    views: dict[tuple[tuple[float, ...], float], dict[str, bool]] = defaultdict(dict)
    for name in models_of(config):
        for train_config in train_configs(config, name):
            views[tuple(train_config.crop), train_config.perspective][name] = True
    lines = []
    for (crop, perspective), names in views.items():
        part = camera.visible_part(crop, perspective)
        if not camera.lies_within(part, cached):
            text = (
                f"the crop of {', '.join(names)}, {list(crop)}, shows parts of the photos outside cache.crop"
            )
            advice = f"widen cache.crop, {cached}, to hold {camera.format_rectangle(part)}"
            warped = f", which the crop shows with perspective {perspective:g}" if perspective else ""
            lines.append(f"models: {text}; {advice}{warped}")
    return lines


def _check_stages(config: dict) -> list[str]:
    lines = []
    if config["predict"].get("runtime") == "openvino" and not find_spec("openvino"):
        # Checked here, because the prediction would notice it only after the trainings.
        lines.append("predict.runtime: OpenVINO is not installed; `pip install openvino`, or use torch")
    pseudo = Pseudo(**config["pseudo"])
    positive, ignore = pseudo.precision_positive, pseudo.probability_ignore
    if positive < ignore:
        lines.append(
            f"pseudo.precision_positive: {positive} is below probability_ignore, {ignore}: a car in between"
            " would be both a pseudo label and background; raise the first or lower the second"
        )
    return lines


def _check_exclusions(config: dict) -> list[str]:
    return [
        f"exclude.images.{image_id}: the reason is empty; say why the image is left out"
        for image_id, reason in config["exclude"].get("images", {}).items()
        if not reason.strip()
    ]


CHECKS = (_check_exclusions, _check_rounds, _check_models, _check_warm_starts, _check_crops, _check_stages)
