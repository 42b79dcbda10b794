"""The text of the schema file and of docs/configuration.md, made from the sections' keys and from what
config.yaml and configs/pku.yaml set."""

import json
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from carpose.core.keyed import read_yaml

from .keys import default_of, schema
from .load import laid_over, models_of, with_models
from .schema import config_schema
from .sections import SECTIONS, Hardware, Run, Stage
from .train_config import TrainConfig

ROOT = Path(__file__).parents[3]
# The page shows the settings of these runs, each a list of files that are laid over each other.
RUNS = [["config.yaml"], ["config.yaml", "configs/pku.yaml"]]
INTRODUCTION = """\
# Configuration

`python -m carpose.config` writes this page from the code; a test checks that it is up to date. `config.yaml`
is the default run, which renders demo data. A file of `--configfile` is laid over it key by key, except that
its `models:` replace those of `config.yaml`. `--config` changes single keys of the result:

    snakemake submission --cores 4 --config rounds=1 'models={"hourglass": {"epochs": 20}, "dla34": null}'

Unknown keys, values out of range and keys that contradict each other are errors before anything runs.

The *default* is that of the programs, for keys that no file sets. The columns after it show what a run has
with `config.yaml` alone and with `--configfile configs/pku.yaml`, which inherits from `config.yaml` what it
does not name. An empty cell means the default.
"""
TRAINING = """\
## train, retrain, models

`train:` is the training configuration of all models. `models:` names the models. Each must set `backbone` and
may set any of the keys below; `null` removes a model. In the rounds after the first, `retrain:` is laid over
these settings, and then the model's own `retrain:`. Some keys are valid only under `retrain:`. In the
columns of the runs a value without a name stands under `train:`.
"""


def schema_text() -> str:
    """The JSON schema of the configuration, as its file has it."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def page_text() -> str:
    """The page docs/configuration.md."""
    parts = [INTRODUCTION, _table(Run, "## Top level", lambda config, item: _unless_default(item, config))]
    for name, section in SECTIONS.items():
        head = f"## {name}\n\n{section.__doc__}"
        stages = [item.name for item in fields(section) if is_dataclass(item.type)]
        if stages:
            head += f" One entry each for {', '.join(stages)}."
        cell = partial(_stages, name, stages) if stages else partial(_section, name)
        parts.append(_table(Stage if stages else section, head, cell))
    parts.append(_table(TrainConfig, TRAINING, _training, fields(TrainConfig) + fields(Hardware)))
    return "\n".join(parts)


def run_config(files: list[str]) -> dict:
    """The configuration of a run with these files of the repository, the last laid over those before."""
    paths = [ROOT / file for file in files]
    config: dict = {}
    for path in paths:
        config = laid_over(config, read_yaml(path))
    return with_models(config, paths, {})


def _table(section: type, head: str, cell: Callable[..., str], items: tuple | None = None) -> str:
    """cell: (configuration of a run, key) → what the run has."""
    runs = {f"`{files[-1]}`": run_config(files) for files in RUNS}
    columns = ["key", "values", "default", *runs, "meaning"]
    lines = [head.rstrip(), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for item in items or fields(section):
        text = item.metadata["help"] + (" *(only under retrain)*" if item.metadata["retrain_only"] else "")
        cells = [f"`{item.name}`", _values(schema(item)), _shown(default_of(item))]
        cells += [*(cell(config, item) for config in runs.values()), text]
        lines.append("".join(f"| {content} " if content else "| " for content in cells) + "|")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    """A value as JSON. Of a long mapping only the number of its entries."""
    if isinstance(value, dict) and len(value) > 1:
        return f"{len(value)} entries"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _unless_default(item: Field, keys: dict) -> str:
    """The value of a key, empty where it is the default."""
    value = keys.get(item.name, default_of(item))
    return "" if value == default_of(item) else _shown(value)


def _section(name: str, config: dict, item: Field) -> str:
    return _unless_default(item, config.get(name, {}))


def _stages(name: str, stages: list[str], config: dict, item: Field) -> str:
    """The values of a key of `resources:`, by stage."""
    texts = {stage: _unless_default(item, config.get(name, {}).get(stage, {})) for stage in stages}
    return "; ".join(f"{stage}: {text}" for stage, text in texts.items() if text)


def _training(config: dict, item: Field) -> str:
    """The value of a key of a training: under `train:`, then wherever else the configuration sets it."""
    texts = [_unless_default(item, config["train"])]
    models = {name: config["models"][name] for name in models_of(config)}
    places = {"retrain": config.get("retrain", {}), **models}
    places |= {f"{name}.retrain": keys.get("retrain", {}) for name, keys in models.items()}
    texts += [f"{place}: {_shown(keys[item.name])}" for place, keys in places.items() if item.name in keys]
    return "; ".join(filter(None, texts))


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
