"""Files that are either whole or absent: write to a temporary name, then move into place."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import UserError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` when the block ends well.

    The data are on disk (fsync) before the move, so that a power cut leaves the old file or the new
    one, never half of either. The suffix is kept: writers choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line: a UserError becomes one clear message and exit status 2."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(_report(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _report(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
