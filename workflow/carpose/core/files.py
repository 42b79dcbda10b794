"""Atomic writes (a temporary file, then a move into place), and how command lines report errors."""

import contextlib
import errno
import io
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .errors import UserError
from .machine import lock_file
from .memory import keep_freed_memory
from .version import note_other_code


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` if the block raises nothing.

    The data are on disk (fsync) before the move, so that a power cut leaves the old file or the new
    one, never half of either. The suffix is kept, because writers choose the format by it.
    Temporary files of writers that were killed are deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with open(temporary, "ab") as held:
            with contextlib.suppress(OSError):  # the write does not depend on it
                lock_file(held, wait=False)
            yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _delete_abandoned(path: Path) -> None:
    """Delete the temporary files of `path` that no process locks any more.

    Else each kill could leave one more, as large as the file. Process ids tell nothing, since a writer may
    be on another node.
    """
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.\d+{re.escape(path.suffix)}")
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name):
            with contextlib.suppress(OSError), open(file, "rb+") as handle:
                if lock_file(handle, wait=False):
                    file.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_outputs(*paths: Path) -> None:
    """Called before the work starts. Raises UserError where a path is a folder, OSError where its folder is
    not writable."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writable"):
            pass


# The machine's faults, not the program's: a message without a traceback is enough.
RESOURCE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,  # of the file system, or of ulimit -f
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENODEV,
    errno.ENOMEM,
    errno.EAGAIN,  # no further process or thread can be started
    errno.EMFILE,
    errno.ENFILE,
}
OUT_OF_MEMORY = (
    "a worker process was killed or crashed, probably because the machine has too little memory; use a lower "
    "--cores, --jobs or running.workers, or request more memory (resources.….mem_mb), and run the same "
    "command again"
)
# A wrong path, or one without permission: the message needs only the path and the system's text.
PATH_ERRNOS = {
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG),
}
MAX_QUOTED = 40  # characters


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line. A UserError, or an OSError of a path or a disk, is printed in one line.

    Freed memory is kept for reuse. At the end a note is printed if other code made any of the results read.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that it cannot encode is not worth an error
            stream.reconfigure(errors="backslashreplace")
    keep_freed_memory()
    try:
        status = main()
        note_other_code()
        sys.stdout.flush()  # here, so that a closed pipe is handled below and not at exit
        sys.exit(status)
    except UserError as error:
        sys.exit(_report(error))
    except BrokenPipeError:  # `… | head` reads a part only
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        name = error.filename2 or error.filename  # filename2 is the target of a move
        prefix = f"{name}: " if name else ""
        if error.errno in PATH_ERRNOS and prefix:
            sys.exit(_report(f"{prefix}{error.strerror}"))
        if error.errno not in RESOURCE_ERRNOS:
            raise
        advice = "no incomplete file is left; fix this and run the same command again"
        sys.exit(_report(f"{prefix}{error.strerror}; {advice}"))
    except MemoryError as error:
        text = f"too little memory{f' ({error})' if str(error) else ''}"
        sys.exit(_report(f"{text}; use a machine with more, or request more (resources.….mem_mb)"))
    except BrokenProcessPool:
        sys.exit(_report(OUT_OF_MEMORY))
    except RuntimeError as error:
        # torch's signal handler raises it anywhere, and this package does not import torch.
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        sys.exit(_report(f"{OUT_OF_MEMORY} ({truncate(str(error))})"))
    except KeyboardInterrupt:
        sys.exit(130)


def one_line(text: object) -> str:
    """A text, or that of an exception, on one line."""
    return " ".join(str(text).split())


def truncate(text: str) -> str:
    """A text of a file for a message: on one line, at most MAX_QUOTED characters and "…"."""
    line = one_line(text)
    return line if len(line) <= MAX_QUOTED else line[:MAX_QUOTED] + "…"


def quoted(text: str) -> str:
    """A text of a file for a message: in quotation marks, with its blanks, at most MAX_QUOTED characters."""
    return repr(text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…")


def _report(error: UserError | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
