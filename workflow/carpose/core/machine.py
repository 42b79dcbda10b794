"""What not every machine has: file locks, the affinity of processes, a short folder for temporary files."""

import errno
import fcntl
import multiprocessing.util
import os
import sys
from typing import IO

from .errors import UserError

# What flock answers on a file system without locks, such as Lustre mounted without `flock`, or NFS without
# its lock daemon.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
MAX_SOCKET_PATH = (
    107 if sys.platform == "linux" else 103
)  # bytes of a Unix socket's path, without the final 0
_warned: set[str] = set()  # consequences of missing locks that were printed


def lock_file(handle: IO, *, wait: bool, consequence: str = "") -> bool:
    """Lock an open file exclusively, until it is closed or its process ends; whether it is locked.

    It is not where the file system has no locks; the first time a warning says so, if this has a consequence:
    its last words. Raises BlockingIOError where another has locked the file and not `wait`.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if consequence and consequence not in _warned:
            text = f"{handle.name}: the file system has no locks ({error.strerror})"
            print(f"warning: {text}; {consequence}", file=sys.stderr, flush=True)
        _warned.add(consequence)
        return False
    return True


def core_count() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_socket_path() -> None:
    """Raises UserError where the folder of temporary files has too long a path for a socket in it.

    torch's worker processes pass batches on through such a socket. Without it they print an error, and the
    process that waits for the batch would wait for ever.
    """
    folder = multiprocessing.util.get_temp_dir()  # Python's own choice, which some versions shorten
    too_long = len(os.fsencode(folder)) + len("/listener-12345678") - MAX_SOCKET_PATH
    if too_long > 0:
        raise UserError(
            f"TMPDIR: {os.path.dirname(folder)} is {too_long} characters too long for the sockets of worker "
            "processes; set TMPDIR to a shorter path, such as /tmp, or workers: 0"
        )
