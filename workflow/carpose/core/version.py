"""The version of the code: written into every table and checkpoint, and compared when they are read."""

import functools
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from carpose import __version__

LIBRARY = Path(__file__).parents[1]
_used: dict[str, Mapping] = {}  # the results that this process read: path → their metadata


@functools.cache
def code_version() -> str:
    """The commit of the code (with `-dirty` where files differ), or the package's version."""
    if not (LIBRARY.parents[1] / ".git").exists():  # git would look for a repository in the folders above
        return __version__
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=LIBRARY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+{answer.stdout.strip()}"


@functools.cache
def code_digest() -> str:
    """Twelve hex digits that change with any source file of carpose and models, and with nothing else."""
    hasher = hashlib.sha256()
    models = importlib.util.find_spec("models")
    folders = [LIBRARY, *map(Path, (models and models.submodule_search_locations) or [])]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            hasher.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:12]


def provenance() -> dict[str, str]:
    """The code's version and digest, as every result stores them."""
    return {"code": code_version(), "code_digest": code_digest()}


def remember_use(path: str | Path, about: Mapping) -> None:
    """Record that the result `path` was read. about: its metadata; without a `provenance` (a file that this
    project did not write) nothing is recorded."""
    if "code_digest" in about:
        _used[str(path)] = about


def note_other_code() -> None:
    """Print a note on stderr where other code made any of the results that this process read."""
    foreign = {path: about for path, about in _used.items() if about["code_digest"] != code_digest()}
    if foreign:
        first, about = next(iter(foreign.items()))
        print(
            f"note: {len(foreign)} of {len(_used)} results used here were made by other code, such as {first}"
            f" by {about['code']}, this is {code_version()}; snakemake … -R RULE makes them again",
            file=sys.stderr,
        )
