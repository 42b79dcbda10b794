"""Studies: files that name a base and what is changed, and the trainings that follow from them.

In: configs/studies/*.yaml and the configuration. Out: for every variant and seed the recipe, the settings of
the prediction and of the picture cache, by the name of the run. docs/studies.md explains the format.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from . import UserError
from .config import SCHEMA, beyond_cache, parsed, problems
from .recipe import Recipe

STUDY_SCHEMA = SCHEMA.with_name("studies.schema.yaml")
BASE = "base"  # the variant in which nothing is changed
CHANGED = "changed"  # the variant of a study with a single one
SCOPES = ["predict", "cache"]  # parts of the configuration that a study may change beside the recipe


@dataclass(frozen=True)
class Study:
    """A file of configs/studies. variants: name → {key: value}, keys of `predict:` as predict.flip."""

    name: str
    question: str
    base: str
    variants: dict[str, dict]
    together: str = ""
    note: str = ""
    on_request: str = ""


@dataclass(frozen=True)
class Run:
    """One variant with one seed: `trained` is the run whose network it predicts with, often its own."""

    name: str
    trained: str
    recipe: dict
    predict: dict
    cache: dict

    @property
    def cache_folder(self) -> str:
        """The same for all runs whose photos are cropped and scaled alike."""
        text = json.dumps(self.cache, sort_keys=True)
        return f"cache-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read(path: Path) -> Study:
    """Raises UserError that names the file, the key and what would be right."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable study ({error})") from error
    content = {} if content is None else content
    lines = problems(content, _schema("study"))
    if isinstance(content, dict):
        lines += [f"{key} is missing" for key in ("question", "base") if key not in content]
        if ("change" in content) == ("variants" in content):
            lines.append("give either change: {key: value} or variants: {name: {key: value}}")
    _refuse(path, lines)

    variants = {CHANGED: content["change"]} if "change" in content else content["variants"]
    variants = {name: flat(change) for name, change in variants.items()}
    most = max(variants.values(), key=len)
    if len(most) > 1 and "together" not in content:
        lines.append(
            f"{', '.join(most)} change at once, and nobody could tell which one it was; change one key, "
            "or say under together: why these belong together"
        )
    if len(most) == 1 and "together" in content:
        lines.append("together: only one key is changed; leave it out")
    if any("seed" in change for change in variants.values()):
        lines.append("seed: leave it out, every variant is trained with several (see configs/studies.yaml)")
    _refuse(path, lines)
    rest = {key: content[key] for key in ("together", "note", "on_request") if key in content}
    return Study(path.stem, content["question"], content["base"], variants, **rest)


def select(folder: Path, names: str | list[str]) -> list[Study]:
    """The studies of these names; `all` leaves out those that are run only on request."""
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if names == "all":
        return [study for study in map(read, paths.values()) if not study.on_request]
    unknown = sorted(set(names) - set(paths))
    if unknown:
        raise UserError(f"studies: there is no {unknown[0]}.yaml in {folder}; known are {', '.join(paths)}")
    return [read(paths[name]) for name in names]


def settings(config: dict) -> dict:
    """The studies' own settings, which the main configuration does not know; checked."""
    schema = _schema("settings")
    own = parsed({key: config[key] for key in schema["properties"] if key in config}, schema)
    lines = problems(own, schema)
    if lines:
        raise UserError("the configuration of the studies is not valid\n  " + "\n  ".join(lines))
    return own


def flat(change: dict) -> dict:
    """{lr: 1, predict: {flip: true}} → {lr: 1, predict.flip: true}."""
    result = {}
    for key, value in change.items():
        result |= {f"{key}.{inner}": v for inner, v in value.items()} if key in SCOPES else {key: value}
    return result


def runs(study: Study, config: dict) -> dict[tuple[str, int], Run]:
    """(variant, seed) → run, the base among them.

    config: the whole configuration, settings of the studies included. Raises UserError where the base is
    unknown or a change changes nothing.
    """
    base = _base(study, config)
    result = {}
    for variant, change in {BASE: {}, **study.variants}.items():
        settings = dict(base)
        for key, value in change.items():
            if key == "epoch_cost":
                settings["epochs"] = max(1, round(base["epochs"] / value))
                continue
            if base.get(key, getattr(Recipe(), key, None)) == value:
                raise UserError(f"study {study.name}: {key} is {value} in the base {study.base} already")
            settings[key] = value
        parts = {scope: _scope(settings, scope) for scope in SCOPES}
        recipe = {key: value for key, value in settings.items() if "." not in key}
        if beyond_cache(recipe.get("crop", Recipe().crop), parts["cache"]["crop"]):
            raise UserError(f"study {study.name}: {variant} shows what cache.crop leaves out of the photos")
        own = f"{BASE}-{study.base}" if variant == BASE else f"{study.name}-{variant}"
        retrained = any(not key.startswith("predict.") for key in change)
        for seed in range(config["seeds"]):
            trained = f"{own if retrained else f'{BASE}-{study.base}'}-seed{seed}"
            result[variant, seed] = Run(f"{own}-seed{seed}", trained, {**recipe, "seed": seed}, **parts)
    return result


def _base(study: Study, config: dict) -> dict:
    """All settings of the base, flat: its model's recipe with its own changes, `predict:` and `cache:`."""
    own = config["bases"].get(study.base)
    if own is None:
        raise UserError(f"study {study.name}: no base {study.base}; known are {', '.join(config['bases'])}")
    recipe = {key: value for key, value in own.items() if key != "model"}
    model = config["models"].get(own.get("model"))
    if not model:
        raise UserError(f"bases.{study.base}.model: {own.get('model')!r} is no model of the configuration")
    settings = {**config["train"], **model, "epochs": config["studies_epochs"], **recipe}
    return settings | flat({scope: config[scope] for scope in SCOPES})


def _scope(settings: dict, scope: str) -> dict:
    return {key.split(".", 1)[1]: value for key, value in settings.items() if key.startswith(f"{scope}.")}


def _schema(part: str) -> dict:
    """The schema of one part, with the configuration's definitions where it refers to them."""
    config, own = (yaml.safe_load(path.read_text()) for path in (SCHEMA, STUDY_SCHEMA))
    definitions = {**config["$defs"], **own["$defs"]}
    for name in ("base", "change"):
        definitions[name]["properties"] |= definitions["recipe"]["properties"]
    definitions["change"]["properties"] |= {scope: config["properties"][scope] for scope in SCOPES}
    return {**definitions[part], "$defs": definitions}


def _refuse(path: Path, lines: list[str]) -> None:
    if lines:
        raise UserError(f"{path}: not a valid study\n  " + "\n  ".join(lines))
