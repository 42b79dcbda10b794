"""Check the configuration before anything runs: every error names the key and what would be right."""

import difflib
from pathlib import Path

import jsonschema
import yaml

from . import UserError

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"


def check(config: dict) -> None:
    """Raises UserError with one line per error of the configuration."""
    schema = yaml.safe_load(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    lines = [line for error in validator.iter_errors(config) for line in _explain(error)]
    rounds = config.get("fuse", {}).get("rounds")
    if isinstance(rounds, list) and isinstance(config.get("rounds"), int):
        lines += [
            f"fuse.rounds: there is no round {r}; rounds is {config['rounds']}, so 0 … {config['rounds'] - 1}"
            for r in rounds
            if not isinstance(r, int) or r >= config["rounds"]
        ]
    if isinstance(config.get("models"), dict) and not any(config["models"].values()):
        lines.append("models: at least one model is needed")
    if lines:
        raise UserError("the configuration is not valid\n  " + "\n  ".join(lines))


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
