"""Study files and the trainings that follow from them.

In: configs/studies/*.yaml, which name a base and what is changed, and the configuration. Out: for every
variant and seed the training configuration and the settings of prediction and image cache, by the name of
the run. docs/extending.md explains the format.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carpose.config.keys import key, object_schema, properties, section_schema
from carpose.config.load import laid_over, parsed, train_settings
from carpose.config.messages import problems
from carpose.config.sections import Cache, Predict
from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.core.keyed import read_yaml
from carpose.geometry import camera

BASE = "base"  # the variant in which nothing is changed
CHANGED = "changed"  # the variant's name where a study has `change` instead of `variants`
SCOPES = {"predict": Predict, "cache": Cache}  # sections that a study may change beside the training
NAME = "^[A-Za-z0-9_]+$"
TEXT = {"type": "string", "minLength": 1}
NAMES = {"type": "array", "minItems": 1, "items": {"type": "string"}}


@dataclass(frozen=True)
class Settings:
    """Settings of all studies."""

    studies: str = key("all", "all, or a list such as [lr, warmup]", anyOf=[{"const": "all"}, NAMES])
    studies_folder: str = key("", "folder of the study files; empty: configs/studies")
    studies_epochs: int = key(8, "epochs of every training without epoch_cost", minimum=1, maximum=1000)
    seeds: int = key(3, "trainings of every variant, each with another seed", minimum=2, maximum=100)


@dataclass(frozen=True)
class Study:
    """A file of configs/studies.

    variants: name → changes {key: value}, with keys of sections such as predict.flip; together: why several
    keys are changed at once; on_request: why `studies: all` leaves it out.
    """

    name: str
    question: str
    base: str
    variants: dict[str, dict]
    together: str = ""
    note: str = ""
    on_request: str = ""


@dataclass(frozen=True)
class Run:
    """One variant with one seed. trained: name of the run whose network it predicts with: its own, or that of
    the base where only the prediction is changed."""

    name: str
    trained: str
    train_config: dict
    predict: dict
    cache: dict

    @property
    def cache_folder(self) -> str:
        """Name of the folder of its image cache; runs with the same settings share it."""
        text = json.dumps(self.cache, sort_keys=True)
        return f"cache-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def study_schema() -> dict:
    """JSON schema of a study file. A change has keys of the training configuration, sections of SCOPES, and
    epoch_cost: duration of an epoch relative to the base; there are so many times fewer epochs."""
    scopes = {name: section_schema(section) for name, section in SCOPES.items()}
    cost = {"epoch_cost": {"type": "number", "exclusiveMinimum": 0}}
    keys = {**properties(TrainConfig, retrain_only=False), **scopes, **cost}
    change = object_schema(keys, "what is changed") | {"minProperties": 1}
    variants = {"type": "object", "minProperties": 1, "propertyNames": {"pattern": NAME}}
    texts = dict.fromkeys(["question", "base", "together", "on_request", "note"], TEXT)
    keys = {**texts, "change": change, "variants": {**variants, "additionalProperties": change}}
    return object_schema(keys, "a study")


def settings_schema() -> dict:
    """JSON schema of the keys of configs/studies.yaml that the main configuration does not have."""
    base = object_schema(
        {"model": {"type": "string"}, **properties(TrainConfig, retrain_only=False)}, "a base"
    )
    bases = {"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": base}
    return object_schema({**properties(Settings), "bases": bases}, Settings.__doc__ or "") | {"$defs": {}}


def read(path: Path) -> Study:
    """Reads a study file. Raises UserError with the file, the key and what is valid."""
    content = read_yaml(path)
    content = {} if content is None else content
    lines = problems(content, study_schema())
    if isinstance(content, dict):
        lines += [f"{name} is missing" for name in ("question", "base") if name not in content]
        if ("change" in content) == ("variants" in content):
            lines.append("give either change: {key: value} or variants: {name: {key: value}}")
    _raise_if_any(path, lines)

    variants = {CHANGED: content["change"]} if "change" in content else content["variants"]
    variants = {name: flatten_keys(change) for name, change in variants.items()}
    largest = max(variants.values(), key=len)
    if len(largest) > 1 and "together" not in content:
        text = (
            f"{', '.join(largest)} change at once, so their effects cannot be told apart; change one key, or"
        )
        lines.append(f"{text} explain with the key together: why they must change at once")
    if len(largest) == 1 and "together" in content:
        lines.append("together: only one key is changed; leave it out")
    if any("seed" in change for change in variants.values()):
        lines.append("seed: leave it out; `seeds` in configs/studies.yaml sets how many seeds are trained")
    _raise_if_any(path, lines)
    optional = {name: content[name] for name in ("together", "note", "on_request") if name in content}
    return Study(path.stem, content["question"], content["base"], variants, **optional)


def _raise_if_any(path: Path, lines: list[str]) -> None:
    if lines:
        raise UserError(f"{path}: not a valid study\n  " + "\n  ".join(lines))


def select(folder: Path, names: str | list[str]) -> list[Study]:
    """The studies of these names; `all` leaves out those that are run only on request."""
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if names == "all":
        return [study for study in map(read, paths.values()) if not study.on_request]
    unknown = sorted(set(names) - set(paths))
    if unknown:
        raise UserError(f"studies: no {unknown[0]}.yaml in {folder}; the studies are {', '.join(paths)}")
    return [read(paths[name]) for name in names]


def settings(config: dict) -> dict:
    """The keys of `settings_schema` from the configuration, checked. Raises UserError."""
    schema = settings_schema()
    result = parsed({name: config[name] for name in schema["properties"] if name in config}, schema)
    lines = problems(result, schema)
    if lines:
        raise UserError("invalid configuration of the studies\n  " + "\n  ".join(lines))
    return result


def flatten_keys(change: dict) -> dict:
    """{lr: 1, predict: {flip: true}} → {lr: 1, predict.flip: true}."""
    result: dict[str, Any] = {}
    for name, value in change.items():
        result |= {f"{name}.{key_}": v for key_, v in value.items()} if name in SCOPES else {name: value}
    return result


def runs(study: Study, config: dict) -> dict[tuple[str, int], Run]:
    """(variant, seed) → run, the base included.

    config: the main configuration and the settings of the studies. Raises UserError where the base is
    unknown, a change sets the value that the base has already, or the view exceeds the cache's crop.
    """
    base = _base(study, config)
    result = {}
    for variant, change in {BASE: {}, **study.variants}.items():
        changed = _changed(study, base, change)
        scopes: dict[str, dict[str, Any]] = {scope: {} for scope in SCOPES}
        train_config: dict[str, Any] = {}
        for name, value in changed.items():
            scope, _, key_ = name.rpartition(".")
            (scopes[scope] if scope else train_config)[key_] = value
        settings = TrainConfig(**train_config)
        part = camera.visible_part(settings.crop, settings.perspective)
        if not camera.lies_within(part, scopes["cache"]["crop"]):
            text = (
                f"{variant} shows what cache.crop leaves out of the photos: {camera.format_rectangle(part)}"
            )
            raise UserError(f"study {study.name}: {text}")
        base_name = f"{BASE}-{study.base}"
        name = base_name if variant == BASE else f"{study.name}-{variant}"
        retrained = any(not name.startswith("predict.") for name in change)
        for seed in range(config["seeds"]):
            trained = f"{name if retrained else base_name}-seed{seed}"
            result[variant, seed] = Run(
                f"{name}-seed{seed}", trained, {**train_config, "seed": seed}, **scopes
            )
    return result


def _base(study: Study, config: dict) -> dict:
    """All settings of the base with the keys of `flatten_keys`: its model's training configuration with the
    base's changes, `predict:` and `cache:`."""
    base = config["bases"].get(study.base)
    if base is None:
        text = f"unknown base {study.base}; the bases are {', '.join(config['bases'])}"
        raise UserError(f"study {study.name}: {text}")
    model = base.get("model")
    if not config["models"].get(model):
        names = ", ".join(config["models"])
        raise UserError(f"bases.{study.base}.model: unknown model {model!r}; the models are {names}")
    train_config = {**train_settings(config, model), "epochs": config["studies_epochs"]}
    train_config = laid_over(train_config, {name: value for name, value in base.items() if name != "model"})
    return train_config | flatten_keys({scope: config[scope] for scope in SCOPES})


def _changed(study: Study, base: dict, change: dict) -> dict:
    """The base's settings with a change."""
    result, defaults = dict(base), TrainConfig()
    for name, value in change.items():
        if name == "epoch_cost":
            result["epochs"] = max(1, round(base["epochs"] / value))
            continue
        before: Any = base.get(name, getattr(defaults, name, None))
        after = laid_over(before, value) if isinstance(value, dict) else value
        if before == after:
            text = f"{name} is {value} in the base {study.base} already; give another value"
            raise UserError(f"study {study.name}: {text}")
        result[name] = after
    return result
