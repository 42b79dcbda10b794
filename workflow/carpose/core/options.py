"""What command lines share: programs, commands, and kinds of options."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import UserError

NAMED = {"nargs": "+", "metavar": "NAME=PATH"}  # an option of files with their names


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the text as it is written, and the options' defaults."""


def program(module: str, text: str) -> argparse.ArgumentParser:
    """The parser of `python -m module`; text: what it says of itself."""
    return argparse.ArgumentParser(f"python -m {module}", description=text, formatter_class=Help)


def commands(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds a command: its name, a line of help, what `action` is to be → its parser."""
    parts = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, action: Callable) -> argparse.ArgumentParser:
        part = parts.add_parser(name, help=text, description=text, formatter_class=Help)
        part.set_defaults(action=action)
        return part

    return add


def named_paths(arguments: Iterable[str]) -> dict[str, str]:
    """What was given to an option like NAMED: `NAME=PATH`, or `PATH` (named by its stem) … → paths by name.

    Raises UserError where a name is given twice.
    """
    paths = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            name, path = Path(argument).stem, argument
        if not name or not path:
            raise UserError(f"{argument!r}: give each file as NAME=PATH, or PATH")
        if name in paths:
            raise UserError(f"two files are called {name}; name them apart as NAME={path}")
        paths[name] = path
    return paths


def whole(least: int) -> Callable[[str], int]:
    """A type of options: an integer of at least `least`, which argparse then says in one line."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not right; use an integer from {least} on")
        return value

    return parse
