"""The keys of a section as options of a command line, with their help, default and range."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin

from carpose.core.errors import UserError

from .keys import default_of, section_schema
from .messages import problems


class Dataclass(Protocol):
    """A section: any instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Section = TypeVar("Section", bound=Dataclass)


def add_options(parser: argparse.ArgumentParser, section: type, only: tuple[str, ...] = ()) -> None:
    """Add one option per key of the section, or per key named in `only`."""
    group = parser.add_argument_group(section.__name__.lower(), section.__doc__)
    for item in fields(section):
        if only and item.name not in only:
            continue
        keywords, default = item.metadata["schema"], default_of(item)
        options: dict[str, Any] = {"help": item.metadata["help"].replace("%", "%%"), "default": default}
        origin, arguments = get_origin(item.type), get_args(item.type)
        if item.type is bool:
            options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        elif origin is dict:
            options |= {"type": _pair(arguments[1]), "nargs": "*", "action": _Pairs, "metavar": "NAME=VALUE"}
        elif origin is list and get_origin(arguments[0]) is list:
            options |= {
                "type": float,
                "nargs": keywords["items"]["minItems"],
                "action": "append",
                "default": [],
            }
        elif origin is list:
            options |= {"type": arguments[0], "nargs": keywords.get("minItems", "*")}
            options["choices"] = keywords.get("items", {}).get("enum")
        else:
            options |= {"type": item.type, "choices": keywords.get("enum")}
        group.add_argument(_option(item.name), **options)


def from_options(args: argparse.Namespace, section: type[Section], only: tuple[str, ...] = ()) -> Section:
    """The section with the values of `args`; keys that were not added have their defaults.

    Raises UserError with one line per invalid value.
    """
    names = only or [item.name for item in fields(section)]
    values = section(**{name: getattr(args, name) for name in names})
    lines = problems(asdict(values), section_schema(section))
    if lines:
        raise UserError("\n  ".join(["invalid options", *lines]))
    return values


def command_line(section: type, values: dict) -> str:
    """Values by key → options of the command line, quoted for a shell. Raises ValueError for unknown keys.

    Options are in the section's order and defaults are left out, so that equal settings give equal text.
    Snakemake compares the text to decide whether a job must run again.
    """
    items = {item.name: item for item in fields(section)}
    if unknown := sorted(set(values) - set(items)):
        raise ValueError(f"unknown keys of {section.__name__}: {', '.join(unknown)}")
    converted = {name: _of_type(values[name], items[name].type) for name in items if name in values}
    words = []
    for name, value in converted.items():
        if value == default_of(items[name]):
            continue
        if isinstance(value, list) and value and isinstance(value[0], list):
            for row in value:
                words += [_option(name), *map(_text, row)]
        elif isinstance(value, list):
            words += [_option(name), *map(_text, value)]
        elif isinstance(value, dict):
            words += [_option(name), *(f"{key}={_text(item)}" for key, item in value.items())]
        else:
            words += [f"{_option(name)}={value}"] if str(value)[:1] == "-" else [_option(name), _text(value)]
    return shlex.join(words)


def _of_type(value: Any, annotation: Any) -> Any:
    """The value with floats for ints where the annotation is float, and with sorted dicts."""
    if get_origin(annotation) is list:
        return [_of_type(item, get_args(annotation)[0]) for item in value]
    if get_origin(annotation) is dict:
        return {key: _of_type(value[key], get_args(annotation)[1]) for key in sorted(value)}
    return float(value) if annotation is float else value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    """A value as text, without an exponent: argparse takes -1e-05 for an option and -0.00001 for a number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and "e" in repr(value):
        return format(Decimal(repr(value)), "f")
    return str(value)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"invalid value {text!r}; use true or false")
    return text.lower() == "true"


def _pair(value_type: type) -> Callable[[str], tuple[str, Any]]:
    def parse(text: str) -> tuple[str, Any]:
        name, equals, value = text.partition("=")
        if not (name and equals and value.strip()):
            raise argparse.ArgumentTypeError(f"{text!r}: give it as NAME=VALUE")
        try:
            return name, value_type(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is not a number") from None

    return parse


class _Pairs(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, dict(values))
