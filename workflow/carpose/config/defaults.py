"""A configuration as single keys, such as train.lr, and the default of each."""

from dataclasses import fields
from typing import Any

from .keys import default_of
from .sections import SECTIONS, Hardware, Run
from .train_config import TrainConfig


def flatten(config: dict, above: str = "") -> dict[str, Any]:
    """{"train": {"lr": 0.1}} → {"train.lr": 0.1}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            result |= flatten(value, f"{above}{key}.")
        else:
            result[f"{above}{key}"] = value
    return result


def default_of_key(config: dict, key: str) -> Any:
    """What a key as of `flatten` is where it is not set: for a model what `train:` (or its `retrain:`) says.

    None for a key that has no default, and of a model that is not there.
    """
    section, _, name = key.partition(".")
    train = _defaults(TrainConfig) | _defaults(Hardware)
    if section == "models":
        model, _, name = name.partition(".")
        if not config["models"].get(model):
            return None
        section, name = ("retrain", name[8:]) if name.startswith("retrain.") else ("train", name)
        return config.get(section, {}).get(name, default_of_key(config, f"{section}.{name}"))
    if section == "retrain":
        return config.get("train", {}).get(name, train.get(name))
    if section == "train":
        return train.get(name)
    return _defaults(SECTIONS[section]).get(name) if section in SECTIONS else _defaults(Run).get(key)


def _defaults(section: type) -> dict[str, Any]:
    return {item.name: default_of(item) for item in fields(section)}
