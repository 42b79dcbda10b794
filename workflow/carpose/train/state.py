"""The saved state of a training: written atomically, verified when read, bound to configuration and data.

A file holds the SHA-256 of its payload, then the payload (torch.save). The previous state is kept too: if the
last file is truncated or damaged, only the work since the previous one is lost.
"""

import contextlib
import hashlib
import io
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

from carpose.core.files import atomic
from carpose.core.machine import lock_file

from . import distributed
from .step import Training

UNLOCKED = "do not start a training again while it still runs"


def save(path: Path, digest: str, state: dict) -> None:
    """Write the state of the training with this digest; an existing file is renamed to `*.previous`."""
    buffer = io.BytesIO()
    torch.save({"digest": digest, "state": state}, buffer)
    payload = buffer.getbuffer()
    with atomic(path) as temporary:
        with open(temporary, "wb") as handle:
            handle.write(hashlib.sha256(payload).digest())
            handle.write(payload)
        if path.exists():
            os.replace(path, _previous(path))


def load(path: Path, digest: str) -> dict | None:
    """The newest valid state with this digest, or None. A state of another training is renamed."""
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            data = candidate.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                raise ValueError("the file is damaged or truncated")
            content = dict(torch.load(io.BytesIO(data[32:]), map_location="cpu", weights_only=True))
            saved_digest, state = content["digest"], content["state"]
        except pickle.UnpicklingError:  # torch's message recommends to load it all the same
            _warn(f"{candidate}: not used (it is not a state, and might run code when it is loaded)")
            continue
        except (OSError, EOFError, ValueError, RuntimeError, LookupError, TypeError) as error:
            _warn(f"{candidate}: not used ({error})")
            continue
        if saved_digest != digest:
            renamed = candidate.with_name(candidate.name + ".other-inputs")
            os.replace(candidate, renamed)
            _warn(f"{candidate}: belongs to another configuration or other data; renamed to {renamed.name}")
            continue
        return state
    return None


@contextlib.contextmanager
def state_lock(path: Path) -> Iterator[None]:
    """Lock this state: a second training with the same state file waits until the first has ended.

    If Snakemake is killed, its trainings keep running; those of the next run must not write to their files.
    The operating system releases the lock when its process ends, for whatever reason.
    """
    file = path.with_name(path.name + ".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = open(file, "w", encoding="utf-8")  # noqa: SIM115  closing it would release the lock
        try:
            lock_file(handle, wait=False, consequence=UNLOCKED)
        except BlockingIOError:
            _warn(f"{path}: another training uses this state; waiting for it to end")
            lock_file(handle, wait=True, consequence=UNLOCKED)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                break
        handle.close()  # our lock file was deleted by its last owner: try again
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        handle.close()


def remove(path: Path) -> None:
    """Delete the state and the one before it."""
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _warn(message: str) -> None:
    print(f"state: {message}", file=sys.stderr, flush=True)


class Saver:
    """The state file of one training, and the signals that stop it.

    The main process reads and writes the file. SIGTERM and SIGUSR1 (Slurm's warning before the time limit)
    and the time `stop_at` only set `stopping`, so that the training can finish its step and save its state.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        minutes: float,
        log: Callable[[str], None],
        stop_at: float = math.inf,
    ):
        """digest: of the training's inputs; minutes: between two states in an epoch; log: prints a line;
        stop_at: Unix time."""
        self.path, self.digest, self.seconds, self.log = path, digest, 60 * minutes, log
        self.stop_at, self.saved_at, self.saved = stop_at, time.monotonic(), False
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    @property
    def stopping(self) -> bool:
        """Whether the training was asked to stop."""
        return self.signalled or time.time() >= self.stop_at

    def load(self) -> dict | None:
        main = distributed.is_main_process()
        return distributed.broadcast_object(load(self.path, self.digest) if main else None)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, training: Training) -> None:
        """Write the state. If that fails, for example on a full disk, the training goes on with a warning."""
        if distributed.is_main_process():
            self.saved = False
            try:
                save(self.path, self.digest, training.state())
                self.saved = True
            except OSError as error:
                self.log(f"warning: the state could not be saved, the previous one is kept ({error})")
        self.saved_at = time.monotonic()
