"""The text of the schema file and of docs/configuration.md, made from the sections' keys."""

import json
from dataclasses import fields, is_dataclass

from .keys import default_of, schema
from .schema import config_schema
from .sections import SECTIONS, Hardware, Run, Stage
from .train_config import TrainConfig

INTRODUCTION = """\
# Configuration

`python -m carpose.config` writes this page from the code; a test checks that it is up to date. `config.yaml`
is the default run, which renders demo data. A file of `--configfile` is laid over it key by key, except that
its `models:` replace those of `config.yaml`. `--config` changes single keys of the result:

    snakemake submission --cores 4 --config rounds=1 'models={"hourglass": {"epochs": 20}, "dla34": null}'

Unknown keys, values out of range and keys that contradict each other are errors before anything runs. The
tables show the defaults of the programs; `config.yaml` may set other values.
"""
TRAINING = """\
## train, retrain, models

`train:` is the training configuration of all models. `models:` names the models. Each must set `backbone` and
may set any of the keys below; `null` removes a model. In the rounds after the first, `retrain:` is laid over
these settings, and then the model's own `retrain:`. Some keys are valid only under `retrain:`.
"""


def schema_text() -> str:
    """The JSON schema of the configuration, as its file has it."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def page_text() -> str:
    """The page docs/configuration.md."""
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
    lines = [head.rstrip(), "", "| key | values | default | meaning |", "|---|---|---|---|"]
    for item in items or fields(section):
        text = item.metadata["help"] + (" *(only under retrain)*" if item.metadata["retrain_only"] else "")
        default = json.dumps(default_of(item), ensure_ascii=False)
        lines.append(f"| `{item.name}` | {_values(schema(item))} | `{default}` | {text} |")
    return "\n".join(lines) + "\n"


def _values(key: dict) -> str:
    """The valid values of a key, in words."""
    if "enum" in key:
        return ", ".join(f"`{item}`" if item != "" else "empty" for item in key["enum"])
    if key.get("type") == "array":
        size = f"{key['minItems']} × " if "minItems" in key else "list of "
        return size + _values(key["items"])
    if key.get("type") == "object":
        return "name: value"
    if "anyOf" in key:
        return "`all` or a list of 0 …"
    names = {"integer": "integer", "number": "number", "boolean": "true, false", "string": "text"}
    low = key.get("minimum", key.get("exclusiveMinimum"))
    above = "above " if "exclusiveMinimum" in key else ""
    if "maximum" in key:
        return f"{above}{low:g} … {key['maximum']:g}"
    return names[key["type"]] if low is None else f"{above}{low:g} …"
