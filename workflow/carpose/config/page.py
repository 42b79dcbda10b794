"""The schema file and the page docs/configuration.md, both made of the sections' keys."""

import json
from dataclasses import fields, is_dataclass

from .keys import default_of, schema
from .schema import config_schema
from .sections import SECTIONS, Hardware, Run, Stage
from .train_config import TrainConfig

INTRODUCTION = """\
# Configuration

Made from the code by `python -m carpose.config`; a test compares. `config.yaml` is the default run,
which renders demo data. A file of `--configfile` is laid over it key by key, but its `models:`, if it has
any, replace those of `config.yaml`. `--config` changes single keys of what is there:

    snakemake submission --cores 4 --config rounds=1 'models={"hourglass": {"epochs": 20}, "dla34": null}'

Unknown keys, values out of range and keys that contradict each other are refused before anything runs. The
default in the tables is the programs'; `config.yaml` may say something else.
"""
TRAINING = """\
## train, retrain, models

`train:` is the recipe of all models. `models:` names the networks; a model may set any of these keys for
itself (`backbone` it must), `null` removes it. In the rounds after the first `retrain:` is laid over that,
and a model's own `retrain:` over it. Keys marked *later* belong under `retrain:` alone.
"""


def schema_text() -> str:
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def page_text() -> str:
    parts = [INTRODUCTION, _table(Run, "## Top level")]
    for name, section in SECTIONS.items():
        if any(is_dataclass(item.type) for item in fields(section)):
            stages = ", ".join(item.name for item in fields(section))
            parts.append(_table(Stage, f"## {name}\n\n{section.__doc__} One entry each for {stages}."))
        else:
            parts.append(_table(section, f"## {name}\n\n{section.__doc__}"))
    parts.append(_table(TrainConfig, TRAINING, fields(TrainConfig) + fields(Hardware)))
    return "\n".join(parts)


def _table(section: type, head: str, items: tuple | None = None) -> str:
    lines = [head.rstrip(), "", "| key | values | default | |", "|---|---|---|---|"]
    for item in items or fields(section):
        text = item.metadata["help"] + (" *(later)*" if item.metadata["later"] else "")
        default = json.dumps(default_of(item), ensure_ascii=False)
        lines.append(f"| `{item.name}` | {_values(schema(item))} | `{default}` | {text} |")
    return "\n".join(lines) + "\n"


def _values(key: dict) -> str:
    """What a key may be, in words."""
    if "enum" in key:
        return ", ".join(f"`{item}`" if item != "" else "empty" for item in key["enum"])
    if key.get("type") == "array":
        size = f"{key['minItems']} × " if "minItems" in key else "list of "
        return size + _values(key["items"])
    if key.get("type") == "object":
        return "name: value"
    if "anyOf" in key:
        return "`all` or a list of 0 …"
    words = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text"}[
        key["type"]
    ]
    low = key.get("minimum", key.get("exclusiveMinimum"))
    above = "above " if "exclusiveMinimum" in key else ""
    if "maximum" in key:
        return f"{above}{low:g} … {key['maximum']:g}"
    return words if low is None else f"{above}{low:g} …"
