"""What command lines share: programs, commands, and types of options."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .errors import UserError

# Keywords of an option that takes files with names.
NAME_PATHS: dict[str, Any] = {"nargs": "+", "metavar": "NAME=PATH"}


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the description with its line breaks, and the options' defaults."""


def program(module: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m module`; description: what --help prints first."""
    return argparse.ArgumentParser(f"python -m {module}", description=description, formatter_class=Help)


def commands(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds a command to the parser and returns the command's own parser.

    It takes the command's name, a line of help, and the function that `args.action` will be.
    """
    subparsers = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, action: Callable) -> argparse.ArgumentParser:
        subparser = subparsers.add_parser(name, help=text, description=text, formatter_class=Help)
        subparser.set_defaults(action=action)
        return subparser

    return add


def named_paths(arguments: Iterable[str]) -> dict[str, str]:
    """The arguments of a NAME_PATHS option, each `NAME=PATH` or `PATH` (named by its stem) → paths by name.

    An existing file whose path has a = is a PATH, unless what follows the first = is a file too.
    Raises UserError where a name or a path is empty, or two files have one name.
    """
    paths = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or (Path(argument).is_file() and not Path(path).is_file()):
            name, path = Path(argument).stem, argument
        if not name or not path:
            raise UserError(f"{argument!r}: give each file as NAME=PATH, or PATH")
        if name in paths:
            raise UserError(f"two files are called {name}; give one of them another name: NAME={path}")
        paths[name] = path
    return paths


def int_at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least `minimum`. argparse prints the error in one line."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}; use an integer of at least {minimum}")
        return value

    return parse
