"""Check the configuration before anything runs: every error names the key and what would be right."""

import difflib
import math
import os.path
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import yaml

from . import UserError
from .recipe import Recipe, grid_of, on_hub, recipe_of

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"
TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER
# NaN is neither below a minimum nor above a maximum, so it would pass for any number. JSON Schema takes 2.0
# for an integer, Python does not.
Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=TYPES.redefine_many(
        {
            "number": lambda _, item: (
                TYPES.is_type(item, "number") and (isinstance(item, int) or math.isfinite(item))
            ),
            "integer": lambda _, item: isinstance(item, int) and not isinstance(item, bool),
        }
    ),
)
FORMATS = jsonschema.FormatChecker(formats=())


def parsed(config: dict, whole: dict | None = None) -> dict:
    """The same with numbers where `--config 'train={"epochs": 8}'` left strings, as Snakemake does.

    whole: the schema, by default the configuration's own.
    """
    whole = whole or _schema()

    def value(item, schema: dict):
        schema = _resolve(schema, whole["$defs"])
        if isinstance(item, dict):
            known, other = schema.get("properties", {}), schema.get("additionalProperties")
            return {key: value(part, known.get(key, other or {})) for key, part in item.items()}
        if isinstance(item, list):
            return [value(part, schema.get("items", {})) for part in item]
        if isinstance(item, str) and schema.get("type", "string") != "string":
            return _number(item)
        return item

    return value(config, whole)


def _number(text: str):
    for kind in (int, float, yaml.safe_load):
        try:
            return kind(text)
        except (ValueError, yaml.YAMLError):
            continue
    return text


@FORMATS.checks("rectangle")
def _is_rectangle(crop) -> bool:
    try:
        left, top, right, bottom = crop
        return not (left >= right or top >= bottom)
    except (TypeError, ValueError):
        return True  # not four numbers, which is another error


@FORMATS.checks("weights")
def _are_weights(source) -> bool:
    return source in ("none", "hub") or not isinstance(source, str) or os.path.isfile(source)


def _schema() -> dict:
    return yaml.safe_load(SCHEMA.read_text())


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


def check(config: dict) -> None:
    """Raises UserError with one line per error of the configuration."""
    # Only what is of the right type can be compared.
    lines = _odd_keys(config) or problems(config, _schema()) or _contradictions(config)
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


def _contradictions(config: dict) -> list[str]:
    """What the schema cannot say: one line per key that does not go with another, or with this machine."""
    lines = []
    rounds, chosen = config["rounds"], config["fuse"].get("rounds", "all")
    if chosen != "all":
        lines += [
            f"fuse.rounds: there is no round {r}; rounds is {rounds}, so 0 … {rounds - 1}"
            for r in chosen
            if r >= rounds
        ]
    if not any(config["models"].values()):
        lines.append("models: at least one model is needed")
    if config["predict"].get("runtime") == "openvino" and not find_spec("openvino"):
        # Before the trainings, not after them.
        lines.append("predict.runtime: OpenVINO is not installed; `pip install openvino`, or take torch")
    if "maps" in config["models"]:
        lines.append("models.maps: this name is kept for the averaged maps of all models; take another")
    recipes = {name: config["train"] | own for name, own in config["models"].items() if own}
    lines += [
        f"models.{name}: {gpus} GPUs cannot share batches of {photos} photos equally"
        for name, recipe in recipes.items()
        if (photos := recipe["batch_size"]) % (gpus := max(recipe.get("gpus", 1), 1))
    ]
    for name, recipe in recipes.items():
        backbone, width = recipe.get("backbone", Recipe.backbone), recipe.get("width", Recipe.width)
        if recipe.get("pretrained") == "hub" and not on_hub(backbone, width):
            lines.append(
                f"models.{name}.pretrained: the hub has no weights of {backbone} at width {width:g};"
                " take none, or the path of a file"
            )
    cached, views = config["cache"]["crop"], defaultdict(list)
    for name, recipe in recipes.items():
        views[tuple(recipe.get("crop", Recipe().crop))].append(name)
    lines += [
        f"models: the crop of {', '.join(names)}, {list(crop)}, shows what cache.crop, {cached}, leaves out"
        " of the photos; widen cache.crop"
        for crop, names in views.items()
        if beyond_cache(crop, cached)
    ]
    if recipes and config["fuse"].get("average_maps"):
        grids = {name: grid_of(Recipe(**recipe_of(config, name)[0])) for name in recipes}
        first = next(iter(grids))
        lines += [
            f"fuse.average_maps: {key} is {own[key]} in models.{name}, {grids[first][key]} in models.{first};"
            " only maps of one grid can be averaged"
            for name, own in grids.items()
            for key in own
            if own[key] != grids[first][key]
        ]
    positive, ignore = config["pseudo"]["precision_positive"], config["pseudo"]["precision_ignore"]
    if positive < ignore:
        lines.append(
            f"pseudo.precision_positive: {positive} is below precision_ignore, {ignore}, and a car between"
            " would be both a pseudo label and background; raise the one or lower the other"
        )
    return lines


def beyond_cache(crop: Sequence[float], cached: Sequence[float]) -> bool:
    """Whether a view shows parts of a photo that a cache of this crop does not hold; no if it is no crop."""
    try:
        left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in crop)
        beyond = [cached[0] - left, cached[1] - top, right - cached[2], bottom - cached[3]]
    except (TypeError, ValueError, IndexError):
        return False  # which is another error
    return max(beyond) > 1e-9


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError with one line per setting that is out of its range."""
    whole = _schema()
    lines = problems(asdict(recipe), {**whole["$defs"]["recipe"], "$defs": whole["$defs"]})
    if lines:
        raise UserError("the recipe is not valid\n  " + "\n  ".join(lines))


def problems(content, schema: dict) -> list[str]:
    """One line per error of what a YAML file holds, naming the key and what would be right."""
    errors = Validator(schema, format_checker=FORMATS).iter_errors(content)
    return [line for error in errors for line in _explain(error)]


def _explain(error: jsonschema.ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "anyOf":
        # Of the alternatives, the one that came furthest says what is wrong.
        deepest = max(error.context, key=lambda e: (len(e.absolute_path), e.validator != "type"))
        if (
            len(deepest.absolute_path) > len(error.absolute_path)
            or deepest.validator == "additionalProperties"
        ):
            return _explain(deepest)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        lines = []
        for name in sorted(set(error.instance) - set(known)):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            lines.append(f"{f'{key}.' if key else ''}{name}: no such key; {hint}")
        return lines
    if error.validator == "required":
        return [f"{error.message}; take it from config.yaml"]
    whole = ("anyOf", "enum", "format", "maxItems", "minItems", "pattern", "uniqueItems")
    if error.validator in whole and "description" in error.schema:
        return [f"{key}: {error.instance!r} is not right; use {error.schema['description']}"]
    if error.validator == "type" and isinstance(error.instance, bool | int | float):
        if error.validator_value == "string":
            # Not made text here: Snakemake reads --config run=007 as 7, whatever the quotes.
            remedy = f'it must be text, in quotes in a file: "{error.instance}"'
            if len(error.absolute_path) == 1:
                remedy += "; --config ignores quotes, take another value there"
            return [f"{key}: {error.instance!r} is not right; {remedy}"]
        if error.validator_value == "number" and isinstance(error.instance, float):
            return [f"{key}: {error.instance!r} is not right; it must be a finite number"]
    right = {
        "enum": "use one of {}",
        "type": "it must be of type {}",
        "minimum": "it must be at least {}",
        "maximum": "it must be at most {}",
        "exclusiveMinimum": "it must be above {}",
        "multipleOf": "it must be a multiple of {}",
    }.get(error.validator)
    if right is None:
        return [f"{key}: {error.message}"]
    value = error.validator_value
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return [f"{key}: {error.instance!r} is not right; {right.format(text)}"]
