"""What is wrong with a configuration, in words: every line names the key and says what would be right."""

import difflib
import math
import os.path

import jsonschema

from .renamed import BY_SECTION, RENAMED

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
# Errors that the help text of a key explains better than the schema's own words.
EXPLAINED = ("anyOf", "enum", "format", "maxItems", "minItems", "multipleOf", "pattern", "uniqueItems")
RIGHT = {
    "type": "it must be of type {}",
    "minimum": "it must be at least {}",
    "maximum": "it must be at most {}",
    "exclusiveMinimum": "it must be above {}",
}


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


def problems(content, schema: dict) -> list[str]:
    """One line per error of what a YAML file holds, naming the key and what would be right."""
    errors = Validator(schema, format_checker=FORMATS).iter_errors(content)
    return [line for error in errors for line in _explain(error)]


def no_such_key(name: str, allowed: list[str], what: str = "key", above: str = "") -> str:
    """`above`: the path of the section with a dot behind it."""
    advice = BY_SECTION.get(f"{above}{name}") or (RENAMED.get(name) if what == "key" else None)
    if advice is None:
        near = difflib.get_close_matches(name, allowed, 1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(allowed)}"
    return f"{above}{name}: no such {what}; {advice}"


def _explain(error: jsonschema.ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "anyOf":
        # Of the alternatives, the one that came furthest says what is wrong.
        deepest = max(error.context, key=lambda e: (len(e.absolute_path), e.validator != "type"))
        further = len(deepest.absolute_path) > len(error.absolute_path)
        if further or deepest.validator == "additionalProperties":
            return _explain(deepest)
    if error.validator == "additionalProperties":
        allowed = list(error.schema.get("properties", {}))
        above = f"{key}." if key else ""
        return [
            no_such_key(name, allowed, above=above) for name in sorted(set(error.instance) - set(allowed))
        ]
    if error.validator == "required":
        return [f"{error.message}; take it from config.yaml"]
    wrong = f"{key}: {error.instance!r} is not right"
    if error.validator == "enum":
        return [f"{wrong}; use one of {', '.join(str(item) for item in error.validator_value)}"]
    if error.validator in EXPLAINED and "description" in error.schema:
        return [f"{wrong}; use {error.schema['description']}"]
    if error.validator == "type" and isinstance(error.instance, bool | int | float):
        if error.validator_value == "string":
            # Not made text here: Snakemake reads --config run=007 as 7, whatever the quotes.
            remedy = f'it must be text, in quotes in a file: "{error.instance}"'
            if len(error.absolute_path) == 1:
                remedy += "; --config ignores quotes, take another value there"
            return [f"{wrong}; {remedy}"]
        if error.validator_value == "number" and isinstance(error.instance, float):
            return [f"{wrong}; it must be a finite number"]
    if error.validator not in RIGHT:
        return [f"{key}: {error.message}"]
    value = error.validator_value
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [f"{wrong}; {RIGHT[error.validator].format(text)}"]
