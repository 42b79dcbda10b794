"""Cases of invalid input: how a valid file or folder is damaged, and what must be said about it."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


class Case(NamedTuple):
    """damage: applied to a valid file or folder; message: a regular expression of the line that must be
    printed; severity: how that line begins, "" where nothing is wrong."""

    name: str
    damage: Callable[[Path], object]
    message: str
    severity: str = "error"


def cases(*groups: list[Case]):
    """A decorator: the test runs once for each case."""
    everything = [case for group in groups for case in group]
    assert len({case.name for case in everything}) == len(everything), "a name occurs twice"
    return pytest.mark.parametrize("case", everything, ids=[case.name for case in everything])


def contents(folder: Path) -> dict[str, str]:
    """Every entry of a folder with a hash of its content, without following links."""
    result = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            result[name] = os.readlink(path) if path.is_symlink() else ""
        else:
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def one_error(outcome: Outcome, message: str) -> None:
    """The command ended with status 2 and one line, which matches."""
    assert outcome.status == 2, outcome
    assert re.fullmatch(rf"error: [^\n]*(?:{message})[^\n]*\n", last_line(outcome.err)), outcome.err


def last_line(text: str) -> str:
    """The last line, without what a progress bar wrote before it."""
    return text.splitlines(keepends=True)[-1].rpartition("\r")[2] if text else ""


# Damages


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    """In the text file `name` of the folder ("": the path itself), the first `old` by `new`."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    """The file `name` of the folder ("": the path itself) with another content."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def recode(name: str, function: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """The bytes of the file changed by a function."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        path.write_bytes(function(path.read_bytes()))

    return change


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def move(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / target)


def link(name: str, target: str) -> Callable[[Path], object]:
    """A symbolic link instead of the file `name` ("": the path itself)."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def as_folder(name: str) -> Callable[[Path], object]:
    """A folder instead of the file."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        path.unlink(missing_ok=True)
        path.mkdir()

    return change


def fifo(name: str) -> Callable[[Path], object]:
    """A named pipe instead of the file: whoever opens it waits for ever."""

    def change(folder: Path) -> None:
        path = folder / name if name else folder
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return change
