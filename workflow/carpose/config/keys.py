"""A key of the configuration is a field of a dataclass: type, default, range and help are written there.

From the fields follow the JSON schema (`schema`), the options of programs and command lines
(carpose.config.options), messages (carpose.config.messages) and docs/configuration.md (carpose.config.page).
"""

from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, get_args, get_origin

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def key(
    default: Any,
    text: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    later: bool = False,
    **keywords: Any,
) -> Any:
    """A field with its help text.

    minimum, maximum and keywords: what JSON Schema calls them, as enum, pattern, items …; the type follows
    from the annotation. later: only trainings of later rounds have it.
    """
    bounds = {"minimum": minimum, "maximum": maximum}
    keywords = {name: bound for name, bound in bounds.items() if bound is not None} | keywords
    metadata = {"help": text, "later": later, "schema": keywords}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(item: Field) -> Any:
    return item.default if item.default is not MISSING else item.default_factory()


def schema(item: Field) -> dict:
    """JSON schema of one key."""
    return {**_of_type(item.type, item.metadata["schema"]), "description": item.metadata["help"]}


def properties(section: type, later: bool = True) -> dict[str, dict]:
    """JSON schemas of a section's keys by name; later: with those that only later rounds have."""
    return {item.name: schema(item) for item in fields(section) if later or not item.metadata["later"]}


def section_schema(section: type) -> dict:
    return object_schema(properties(section), section.__doc__)


def object_schema(keys: dict[str, dict], text: str) -> dict:
    return {"type": "object", "description": text, "additionalProperties": False, "properties": keys}


def _of_type(annotation: Any, keywords: dict) -> dict:
    if "anyOf" in keywords:
        return dict(keywords)
    if is_dataclass(annotation):
        return section_schema(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is list:
        items = _of_type(inner[0], keywords.get("items", {}))
        return {"type": "array", **keywords, "items": items}
    if origin is dict:
        values = _of_type(inner[1], {})
        named = {name: {**values, **bounds} for name, bounds in keywords.get("properties", {}).items()}
        return {"type": "object", "properties": named, "additionalProperties": False if named else values}
    return {"type": JSON_TYPES[annotation], **keywords}
