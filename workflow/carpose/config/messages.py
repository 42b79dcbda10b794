"""Messages for errors of a configuration. Every line names the key and says what is valid."""

import difflib
import math
import os.path
from typing import Any

import jsonschema

from .renamed import BY_SECTION, RENAMED

TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER
# Stricter than JSON Schema: NaN is not a number here, since it would pass any minimum and maximum, and 2.0 is
# not an integer.
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
# Errors for which the key's help text is a better message than the schema's.
EXPLAINED_BY_HELP = (
    "anyOf",
    "enum",
    "format",
    "maxItems",
    "minItems",
    "multipleOf",
    "pattern",
    "uniqueItems",
)
EXPECTED = {
    "type": "it must be of type {}",
    "minimum": "it must be at least {}",
    "maximum": "it must be at most {}",
    "exclusiveMinimum": "it must be above {}",
}


@FORMATS.checks("rectangle")
def _is_rectangle(crop: Any) -> bool:
    try:
        left, top, right, bottom = crop
        return not (left >= right or top >= bottom)
    except (TypeError, ValueError):
        return True  # not four numbers, which the schema reports as another error


@FORMATS.checks("weights")
def _are_weights(source: Any) -> bool:
    return source in ("none", "hub") or not isinstance(source, str) or os.path.isfile(source)


def problems(content: Any, schema: dict) -> list[str]:
    """One line per error of the content of a YAML file against its JSON schema."""
    errors = Validator(schema, format_checker=FORMATS).iter_errors(content)
    return [line for error in errors for line in _explain(error)]


def unknown_name(name: str, allowed: list[str], what: str = "key", above: str = "") -> str:
    """The message for an unknown name of a key or model (`what`), with what to write instead.

    allowed: the known names; above: the path of the section with a dot at its end.
    """
    advice = BY_SECTION.get(f"{above}{name}") or (RENAMED.get(name) if what == "key" else None)
    if advice is None:
        similar = difflib.get_close_matches(name, allowed, 1)
        advice = f"did you mean {similar[0]}?" if similar else f"use one of {', '.join(allowed)}"
    return f"{above}{name}: unknown {what}; {advice}"


def _explain(error: jsonschema.ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "anyOf":
        # Report the error of the alternative that matched furthest.
        deepest = max(error.context, key=lambda e: (len(e.absolute_path), e.validator != "type"))
        is_deeper = len(deepest.absolute_path) > len(error.absolute_path)
        if is_deeper or deepest.validator == "additionalProperties":
            return _explain(deepest)
    if error.validator == "additionalProperties":
        allowed = list(error.schema.get("properties", {}))
        above = f"{key}." if key else ""
        return [
            unknown_name(name, allowed, above=above) for name in sorted(set(error.instance) - set(allowed))
        ]
    if error.validator == "required":
        return [f"{error.message}; copy it from config.yaml"]
    invalid = f"{key}: invalid value {error.instance!r}"
    if error.validator == "enum":
        return [f"{invalid}; use one of {', '.join(str(item) for item in error.validator_value)}"]
    if error.validator in EXPLAINED_BY_HELP and "description" in error.schema:
        return [f"{invalid}; expected: {error.schema['description']}"]
    if error.validator == "type" and isinstance(error.instance, bool | int | float):
        if error.validator_value == "string":
            # Not converted, since the text is lost: Snakemake reads --config run=007 as 7, also in quotes.
            advice = f'it must be text, in quotes in a file: "{error.instance}"'
            if len(error.absolute_path) == 1:
                advice += "; --config ignores quotes, so use another value there"
            return [f"{invalid}; {advice}"]
        if error.validator_value == "number" and isinstance(error.instance, float):
            return [f"{invalid}; it must be a finite number"]
    if error.validator not in EXPECTED:
        return [f"{key}: {error.message}"]
    limit = error.validator_value
    text = ", ".join(map(str, limit)) if isinstance(limit, list) else str(limit)
    return [f"{invalid}; {EXPECTED[error.validator].format(text)}"]
