"""Files that are either whole or absent: write to a temporary name, then move into place."""

import contextlib
import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import UserError
from .memory import keep_freed_memory
from .version import note_other_code


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


def check_outputs(*paths: Path) -> None:
    """Raises UserError where one is a folder, OSError where it cannot be written: before the work, not after
    it."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writable"):
            pass


# What the machine lacks, not the program: one line says it all.
RESOURCE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENODEV,
}
# A name that was given wrongly, or is another's: it says all by itself.
PATH_ERRNOS = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM}
QUOTED = 40  # characters


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line: a UserError, or a disk that does not take or give, becomes one clear message.

    Freed memory is kept. At the end, a line where results were used that other code made.
    """
    keep_freed_memory()
    try:
        status = main()
        note_other_code()
        sys.stdout.flush()  # here, where a reader that has gone is known what to do about
        sys.exit(status)
    except UserError as error:
        sys.exit(_report(error))
    except BrokenPipeError:  # of `… | head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must go somewhere
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        name = error.filename2 or error.filename  # the second is where a file was to be moved to
        where = f"{name}: " if name else ""
        if error.errno in PATH_ERRNOS and where:
            sys.exit(_report(f"{where}{error.strerror}"))
        if error.errno not in RESOURCE_ERRNOS:
            raise
        sys.exit(_report(f"{where}{error.strerror}; nothing half-written is left, the same command goes on"))
    except KeyboardInterrupt:
        sys.exit(130)


def truncate(text: str) -> str:
    """What a message quotes of a file: its beginning, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else line[:QUOTED] + "…"


def _report(error: UserError | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
