"""Check the configuration before anything runs: every error names the key and what would be right."""

import difflib
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import yaml

from . import UserError

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"


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
        except ValueError:
            continue
    return text


def _schema() -> dict:
    return yaml.safe_load(SCHEMA.read_text())


def _resolve(schema, definitions: dict) -> dict:
    """Follow a reference, and of alternatives take the one that is not null."""
    if not isinstance(schema, dict):
        return {}
    if "anyOf" in schema:
        return _resolve(next(part for part in schema["anyOf"] if part.get("type") != "null"), definitions)
    if "$ref" in schema:
        return definitions[schema["$ref"].rsplit("/", 1)[1]]
    return schema


def check(config: dict) -> None:
    """Raises UserError with one line per error of the configuration."""
    lines = problems(config, _schema())
    rounds = config.get("fuse", {}).get("rounds")
    if isinstance(rounds, list) and isinstance(config.get("rounds"), int):
        lines += [
            f"fuse.rounds: there is no round {r}; rounds is {config['rounds']}, so 0 … {config['rounds'] - 1}"
            for r in rounds
            if not isinstance(r, int) or r >= config["rounds"]
        ]
    if isinstance(config.get("models"), dict) and not any(config["models"].values()):
        lines.append("models: at least one model is needed")
    if (config.get("predict") or {}).get("runtime") == "openvino" and not find_spec("openvino"):
        # Before the trainings, not after them.
        lines.append("predict.runtime: OpenVINO is not installed; `pip install openvino`, or take torch")
    if "maps" in (config.get("models") or {}):
        lines.append("models.maps: this name is kept for the averaged maps of all models; take another")
    if not lines:  # only what is of the right type can be compared
        recipes = {name: config["train"] | own for name, own in config["models"].items() if own}
        lines = [
            f"models.{name}: {gpus} GPUs cannot share batches of {photos} photos equally"
            for name, recipe in recipes.items()
            if (photos := recipe["batch_size"]) % (gpus := max(recipe.get("gpus", 1), 1))
        ]
    if lines:
        raise UserError("the configuration is not valid\n  " + "\n  ".join(lines))


def problems(content, schema: dict) -> list[str]:
    """One line per error of what a YAML file holds, naming the key and what would be right."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(content)
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
    if error.validator == "pattern" and "description" in error.schema:
        return [f"{key}: {error.instance!r} is unknown; use {error.schema['description']}"]
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
