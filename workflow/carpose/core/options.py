"""What command lines share: commands, and types of options whose range argparse then says in one line."""

import argparse
from collections.abc import Callable


def commands(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds a command: its name, a line of help, what `action` is to be → its parser."""
    parts = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, action: Callable) -> argparse.ArgumentParser:
        style = argparse.ArgumentDefaultsHelpFormatter
        part = parts.add_parser(name, help=text, description=text, formatter_class=style)
        part.set_defaults(action=action)
        return part

    return add


def whole(least: int) -> Callable[[str], int]:
    """An integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not right; use an integer from {least} on")
        return value

    return parse
