"""YAML files and the command line → one configuration → the TrainConfig of each training."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from carpose.core.errors import UserError
from carpose.core.keyed import load_json, load_yaml, read_yaml
from carpose.registry.backbones import BACKBONES, backbone_of

from .keys import properties
from .messages import unknown_name
from .schema import config_schema
from .sections import Hardware
from .train_config import TrainConfig

DATA_KEYS = ["data_root", "demo", "exclude", "folds", "cache"]  # what data, check, folds and cache depend on


def with_models(config: dict, files: Sequence[Path], from_command_line: dict) -> dict:
    """The configuration with the `models:` of the last file that has them, changed by the command line.

    files: config.yaml and the files laid over it, in order. `models:` of a file replace those of the files
    before it, so that no network of another run is inherited; --config changes single keys of them. Raises
    UserError where --config changes an unknown model without giving its backbone.
    """
    models: dict = {}
    for file in files:
        content = read_yaml(file)
        if isinstance(content, dict) and "models" in content:
            models = content["models"]
    changes = from_command_line.get("models", {})
    if not isinstance(models, dict) or not isinstance(changes, dict):
        # Not a mapping: `check` reports it.
        return {**config, "models": models if not isinstance(models, dict) else changes}
    for name, change in changes.items():
        if models.get(name) is None and not (isinstance(change, dict) and "backbone" in change):
            line = unknown_name(str(name), [str(model) for model in models], "model", "models.")
            raise UserError(f"{line}; a new model needs its backbone")
        models[name] = (
            laid_over(models[name] or {}, change) if isinstance(change, dict) and name in models else change
        )
    return {**config, "models": models}


def refuse_duplicate_keys(arguments: Sequence[str]) -> None:
    """Raises UserError where a KEY=VALUE of --config has a key twice in its braces. Snakemake would silently
    take the last."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        with contextlib.suppress(yaml.YAMLError):  # such as a path
            load_yaml(value, f"--config {name}")


def laid_over(below: dict, above: dict) -> dict:
    """Deep merge of two nested dictionaries. Where both have a key, the value of `above` is taken."""
    result = dict(below)
    for key, value in above.items():
        both_nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = laid_over(below[key], value) if both_nested else value
    return result


def models_of(config: dict) -> list[str]:
    """The names of the models that are trained: those that are not null."""
    return [name for name, keys in config["models"].items() if keys is not None]


def train_settings(config: dict, model: str, round_: int = 0) -> dict:
    """The keys of TrainConfig that the configuration sets for a model in a round.

    The model's keys are laid over `train:`; in later rounds (round_ > 0) also `retrain:`, then the model's
    `retrain:`. Keys that only other backbones use are left out, because nothing depends on them.
    """
    settings = laid_over(config["train"], config["models"][model])
    retrain = settings.pop("retrain", {})
    if round_ > 0:
        settings = laid_over(laid_over(settings, config["retrain"]), retrain)
    used = backbone_of(settings.get("backbone", TrainConfig.backbone)).keys
    unused = {key for entry in BACKBONES.values() for key in entry.keys} - set(used)
    return {key: value for key, value in settings.items() if key not in {*properties(Hardware), *unused}}


def train_configs(config: dict, model: str) -> list[TrainConfig]:
    """A model's training configuration in the first round and, with several rounds, in the later ones."""
    return [
        TrainConfig(**train_settings(config, model, round_)) for round_ in range(min(config["rounds"], 2))
    ]


def check_data_from(config: dict, config_file: Path) -> None:
    """Raises UserError where the run that `data_from` names, if any, made its data with other settings.

    config_file: the config.json of that run.
    """
    name = config["data_from"]
    if not name:
        return
    if name == config["run"]:
        raise UserError(f"data_from: is this run itself, {name}; name another run, or set run:")
    if not config_file.is_file():
        text = f"data_from: there is no run {name} ({config_file} is missing)"
        raise UserError(f"{text}; make it first: --config run={name}")
    theirs = load_json(config_file.read_text(encoding="utf-8"))
    if source := theirs.get("data_from"):
        raise UserError(f"data_from: the run {name} has its data from {source}; set data_from: {source}")
    keys = [key for key in DATA_KEYS if config.get(key) != theirs.get(key)]
    if keys:
        text = f"{', '.join(keys)}: differ from those of the run {name}, whose data this run uses"
        raise UserError(f"{text}; set them alike, or leave data_from empty")


def start_round(config: dict, config_file: Path) -> int:
    """The last round of the run that `start_from` names, whose networks this run's first round starts with.

    config_file: the config.json of that run. Raises UserError where it has other folds, whose networks could
    have been trained on photos that they are now validated on, or lacks a model.
    """
    name = config["start_from"]
    if name == config["run"]:
        raise UserError(f"start_from: is this run itself, {name}; set run: to another name")
    if not config_file.is_file():
        raise UserError(f"start_from: there is no run {name} ({config_file} is missing)")
    theirs = load_json(config_file.read_text(encoding="utf-8"))
    data_run = theirs.get("data_from") or name
    if data_run != config["data_from"]:
        raise UserError(f"start_from: the run {name} has folds of its own; set data_from: {data_run}")
    if missing := sorted(set(models_of(config)) - set(models_of(theirs))):
        raise UserError(
            f"start_from: the run {name} has no model called {missing[0]}; name models of that run"
        )
    return theirs["rounds"] - 1


def gpus_of(config: dict, model: str) -> int:
    """The number of GPUs that share a training of this model."""
    return {**config["train"], **config["models"][model]}.get("gpus", Hardware.gpus)


def parsed(config: dict, root: dict | None = None) -> dict:
    """The configuration with numbers for strings: Snakemake reads `--config 'train={"epochs": 8}'` as "8".

    root: the JSON schema, by default that of the configuration.
    """
    root = root or config_schema()

    def value(item: Any, schema: dict) -> Any:
        schema = _resolve(schema, root["$defs"])
        if isinstance(item, dict):
            keys, other_keys = schema.get("properties", {}), schema.get("additionalProperties")
            return {key: value(part, keys.get(key, other_keys or {})) for key, part in item.items()}
        if isinstance(item, list):
            return [value(part, schema.get("items", {})) for part in item]
        if isinstance(item, str) and schema.get("type", "string") != "string":
            return _number(item)
        if item is False and "off" in schema.get("enum", ()):
            return "off"  # YAML reads off as false
        return item

    return value(config, root)


def _number(text: str) -> Any:
    for parse in (int, float, yaml.safe_load):
        try:
            return parse(text)
        except (ValueError, yaml.YAMLError):
            continue
    return text


def _resolve(schema: Any, definitions: dict) -> dict:
    """The schema itself, what a $ref names, or the first alternative of anyOf with a type other than null."""
    if not isinstance(schema, dict):
        return {}
    if "anyOf" in schema:
        alternatives = [_resolve(alternative, definitions) for alternative in schema["anyOf"]]
        return next(schema for schema in alternatives if schema.get("type", "null") != "null")
    if "$ref" in schema:
        return definitions[schema["$ref"].rsplit("/", 1)[1]]
    return schema
