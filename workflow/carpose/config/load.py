"""YAML files and the command line → one configuration → the recipe of each training."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from carpose.core.errors import UserError
from carpose.core.keyed import load_yaml, read_yaml
from carpose.registry.backbones import BACKBONES, backbone_of

from .keys import properties
from .messages import no_such_key
from .schema import config_schema
from .sections import Hardware
from .train_config import TrainConfig


def with_models(config: dict, files: Sequence[Path], given: dict) -> dict:
    """The configuration with its models settled.

    files: config.yaml and what is laid over it, in order; given: of the command line. A file that has
    `models:` replaces those of the files before it, so that nothing of another run's networks is inherited;
    the command line changes what is there. Raises UserError where it names a model that is not.
    """
    models: dict = {}
    for file in files:
        content = read_yaml(file)
        if isinstance(content, dict) and "models" in content:
            models = content["models"]
    changes = given.get("models", {})
    if not isinstance(models, dict) or not isinstance(changes, dict):
        return {
            **config,
            "models": models if not isinstance(models, dict) else changes,
        }  # `check` will say so
    for name, change in changes.items():
        if models.get(name) is None and not (isinstance(change, dict) and "backbone" in change):
            line = no_such_key(str(name), [str(model) for model in models], "model", "models.")
            raise UserError(f"{line}; a new one needs its backbone")
        models[name] = (
            laid_over(models[name] or {}, change) if isinstance(change, dict) and name in models else change
        )
    return {**config, "models": models}


def refuse_duplicate_keys(arguments: Sequence[str]) -> None:
    """Raises UserError where one of the command line's KEY=VALUE has a key twice in its braces: Snakemake
    takes the last."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        with contextlib.suppress(yaml.YAMLError):  # a path, say
            load_yaml(value, f"--config {name}")


def laid_over(below: dict, above: dict) -> dict:
    """Two nested dictionaries as one: what both have is taken from `above`."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = laid_over(below[key], value) if both else value
    return result


def models_of(config: dict) -> list[str]:
    """The names of the models that are trained."""
    return [name for name, keys in config["models"].items() if keys is not None]


def train_settings(config: dict, model: str, round_: int = 0) -> dict:
    """The keys of TrainConfig that the configuration sets for a model in a round.

    In later rounds the section `retrain:` lies over `train:` and the model's own keys, and the model's own
    `retrain:` over that. Keys of another backbone are left out: nothing depends on them.
    """
    settings = laid_over(config["train"], config["models"][model])
    retrain = settings.pop("retrain", {})
    if round_ > 0:
        settings = laid_over(laid_over(settings, config["retrain"]), retrain)
    taken = backbone_of(settings.get("backbone", TrainConfig.backbone)).keys
    foreign = {key for entry in BACKBONES.values() for key in entry.keys} - set(taken)
    return {key: value for key, value in settings.items() if key not in {*properties(Hardware), *foreign}}


def train_configs(config: dict, model: str) -> list[TrainConfig]:
    """A model's recipe in the first round and, if there are more, in the later ones."""
    return [
        TrainConfig(**train_settings(config, model, round_)) for round_ in range(min(config["rounds"], 2))
    ]


def gpus_of(config: dict, model: str) -> int:
    """How many GPUs share a training of this model."""
    return {**config["train"], **config["models"][model]}.get("gpus", Hardware.gpus)


def parsed(config: dict, root: dict | None = None) -> dict:
    """The same with numbers where `--config 'train={"epochs": 8}'` left strings, as Snakemake does.

    root: the schema, by default the configuration's own.
    """
    root = root or config_schema()

    def value(item, schema: dict):
        schema = _resolve(schema, root["$defs"])
        if isinstance(item, dict):
            keys, rest = schema.get("properties", {}), schema.get("additionalProperties")
            return {key: value(part, keys.get(key, rest or {})) for key, part in item.items()}
        if isinstance(item, list):
            return [value(part, schema.get("items", {})) for part in item]
        if isinstance(item, str) and schema.get("type", "string") != "string":
            return _number(item)
        if item is False and "off" in schema.get("enum", ()):
            return "off"  # YAML's word for false
        return item

    return value(config, root)


def _number(text: str):
    for kind in (int, float, yaml.safe_load):
        try:
            return kind(text)
        except (ValueError, yaml.YAMLError):
            continue
    return text


def _resolve(schema, definitions: dict) -> dict:
    """Follow a reference, and of alternatives take the one that is neither null nor a constant."""
    if not isinstance(schema, dict):
        return {}
    if "anyOf" in schema:
        parts = [_resolve(part, definitions) for part in schema["anyOf"]]
        return next(part for part in parts if part.get("type", "null") != "null")
    if "$ref" in schema:
        return definitions[schema["$ref"].rsplit("/", 1)[1]]
    return schema
