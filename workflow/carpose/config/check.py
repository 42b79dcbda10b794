"""Check the configuration before anything runs: every error names the key and what would be right."""

from collections import defaultdict
from importlib.util import find_spec

from carpose.core.errors import UserError
from carpose.geometry import camera
from carpose.registry.backbones import backbone_of, on_hub

from .load import gpus_of, models_of, train_configs, train_settings
from .messages import problems
from .schema import config_schema
from .train_config import NETWORK


def check(config: dict) -> None:
    """Raises UserError with one line per error of the configuration."""
    # Only what is of the right type can be compared.
    lines = _odd_keys(config) or problems(config, config_schema()) or contradictions(config)
    if lines:
        raise UserError("the configuration is not valid\n  " + "\n  ".join(lines))


def _odd_keys(content, above: str = "") -> list[str]:
    """YAML reads 5 and no as keys that are no text."""
    if not isinstance(content, dict):
        return []
    odd = [
        f"{above}{key}: keys must be text; put it in quotes" for key in content if not isinstance(key, str)
    ]
    return odd + [line for key, part in content.items() for line in _odd_keys(part, f"{above}{key}.")]


def contradictions(config: dict) -> list[str]:
    """What the schema cannot say: one line per key that does not go with another, or with this machine."""
    if not models_of(config):
        return ["models: at least one model is needed"]
    return list(dict.fromkeys(line for part in PARTS for line in part(config)))


def _of_rounds(config: dict) -> list[str]:
    rounds, chosen = config["rounds"], config["fuse"].get("rounds", "all")
    return [
        f"fuse.rounds: there is no round {r}; rounds is {rounds}, so 0 … {rounds - 1}"
        for r in ([] if chosen == "all" else chosen)
        if r >= rounds
    ]


def _of_models(config: dict) -> list[str]:
    lines = []
    for name in models_of(config):
        if "backbone" not in train_settings(config, name):
            lines.append(f"models.{name}.backbone: is missing; name the network, such as backbone: dla34")
        gpus = gpus_of(config, name)
        for train_config in train_configs(config, name):
            if train_config.batch_size % max(gpus, 1):
                text = f"{gpus} GPUs cannot share batches of {train_config.batch_size} photos equally"
                lines.append(f"models.{name}: {text}")
            if backbone_of(train_config.backbone).fixed_width and train_config.width != 1:
                lines.append(f"models.{name}.width: {train_config.backbone} can be had at width 1 alone")
            elif train_config.pretrained == "hub" and not on_hub(train_config.backbone, train_config.width):
                lines.append(
                    f"models.{name}.pretrained: the hub has no weights of {train_config.backbone} at width"
                    f" {train_config.width:g}; take none, or the path of a file"
                )
    return lines


def _of_warm_starts(config: dict) -> list[str]:
    """A training that begins with the weights of the round before has the same network."""
    models = defaultdict(list)
    for name in models_of(config):
        first, *later = train_configs(config, name)
        for train_config in later if later and later[0].start == "warm" else []:
            for key in NETWORK:
                if getattr(first, key) != getattr(train_config, key):
                    models[key].append(name)
    return [
        f"retrain: {key} of {', '.join(names)} differs from the first round's, whose weights it starts with;"
        " take the same, or start: scratch"
        for key, names in models.items()
    ]


def _of_crops(config: dict) -> list[str]:
    cached, views = config["cache"]["crop"], defaultdict(dict)
    for name in models_of(config):
        for train_config in train_configs(config, name):
            views[tuple(train_config.crop), train_config.perspective][name] = True
    lines = []
    for (crop, perspective), names in views.items():
        part = camera.visible_part(crop, perspective)
        if not camera.lies_within(part, cached):
            text = f"the crop of {', '.join(names)}, {list(crop)}, shows what cache.crop, {cached},"
            warped = f", with perspective {perspective:g}," if perspective else ""
            advice = f"widen cache.crop: they show{warped} {camera.format_rectangle(part)}"
            lines.append(f"models: {text} leaves out of the photos; {advice}")
    return lines


def _of_stages(config: dict) -> list[str]:
    lines = []
    if config["predict"].get("runtime") == "openvino" and not find_spec("openvino"):
        # Before the trainings, not after them.
        lines.append("predict.runtime: OpenVINO is not installed; `pip install openvino`, or take torch")
    positive, ignore = config["pseudo"]["precision_positive"], config["pseudo"]["precision_ignore"]
    if positive < ignore:
        lines.append(
            f"pseudo.precision_positive: {positive} is below precision_ignore, {ignore}, and a car between"
            " would be both a pseudo label and background; raise the one or lower the other"
        )
    return lines


PARTS = (_of_rounds, _of_models, _of_warm_starts, _of_crops, _of_stages)
