"""Keys of the configuration as fields of dataclasses, with type, default, range and help.

The JSON schema (`schema`), the options of command lines (carpose.config.options), error messages
(carpose.config.messages) and docs/configuration.md (carpose.config.page) are made from the fields.
"""

from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, get_args, get_origin

END = "$(?!\n)"  # the end of a pattern: Python's $ alone also matches before a line end
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def key(
    default: Any,
    text: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    retrain_only: bool = False,
    **keywords: Any,
) -> Any:
    """A dataclass field for a key with this default and help text.

    minimum, maximum, keywords: keywords of JSON Schema such as enum, pattern, items; the type is that of the
    annotation. retrain_only: valid only under `retrain:`, the trainings after the first round.
    """
    bounds = {"minimum": minimum, "maximum": maximum}
    keywords = {name: bound for name, bound in bounds.items() if bound is not None} | keywords
    metadata = {"help": text, "retrain_only": retrain_only, "schema": keywords}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(item: Field) -> Any:
    """The default of a key; a new list or dict each time."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def schema(item: Field) -> dict:
    """JSON schema of one key."""
    return {**_of_type(item.type, item.metadata["schema"]), "description": item.metadata["help"]}


def properties(section: type, retrain_only: bool = True) -> dict[str, dict]:
    """JSON schemas of a section's keys by name; retrain_only: include those that are valid only there."""
    keys = [item for item in fields(section) if retrain_only or not item.metadata["retrain_only"]]
    return {item.name: schema(item) for item in keys}


def section_schema(section: type) -> dict:
    """JSON schema of a section, a dataclass of keys."""
    return object_schema(properties(section), section.__doc__ or "")


def object_schema(keys: dict[str, dict], text: str) -> dict:
    """JSON schema of a mapping with these keys (schemas by name) and no others; text: its description."""
    return {"type": "object", "description": text, "additionalProperties": False, "properties": keys}


def _of_type(annotation: Any, keywords: dict) -> dict:
    if "anyOf" in keywords:
        return dict(keywords)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return section_schema(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        items = _of_type(arguments[0], keywords.get("items", {}))
        return {"type": "array", **keywords, "items": items}
    if origin is dict:
        values = _of_type(arguments[1], {})
        named = {name: {**values, **bounds} for name, bounds in keywords.get("properties", {}).items()}
        return {"type": "object", "properties": named, "additionalProperties": False if named else values}
    return {"type": JSON_TYPES[annotation], **keywords}
