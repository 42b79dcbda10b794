"""The state of an interrupted training: written whole, checked when read, bound to recipe and data.

A file is the SHA-256 of its payload, then the payload (torch.save). The state before the last one is
kept: a file cut short or damaged costs one interval, not the night.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from carpose.core.files import atomic

from . import distributed
from .step import Training


def save(path: Path, digest: str, state: dict) -> None:
    """Write `state` for the training with this digest; the state of before becomes `*.previous`."""
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
    """The newest sound state with this digest, or None. A state of another training is set aside."""
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            data = candidate.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                raise ValueError("the file is damaged or cut short")
            content = torch.load(io.BytesIO(data[32:]), map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            _say(f"{candidate}: not used ({error})")
            continue
        if content["digest"] != digest:
            aside = candidate.with_name(candidate.name + ".other-config")
            os.replace(candidate, aside)
            _say(f"{candidate}: belongs to another configuration or other data; set aside as {aside.name}")
            continue
        return content["state"]
    return None


@contextlib.contextmanager
def state_lock(path: Path) -> Iterator[None]:
    """Work on this state alone: a second training of the same state waits until the first has left.

    After a kill of Snakemake its trainings live on; those of the next run must not write beside them.
    The lock goes with its process, however that ends.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = open(lock, "w")  # noqa: SIM115  held as long as the lock
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{path}: another training is at work on it; waiting until it has left")
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                break
        handle.close()  # whoever held the lock took the file away: what is locked is no longer the file
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        handle.close()


def remove(path: Path) -> None:
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _say(message: str) -> None:
    print(f"state: {message}", file=sys.stderr, flush=True)


class Saver:
    """The state file of one training: read for all processes, written by the main one; and whether SIGTERM or
    SIGUSR1 (Slurm's warning before the end) came, so that no step is cut in two."""

    def __init__(self, path: Path, digest: str, minutes: float, say: Callable[[str], None]):
        """digest: what the state belongs to; minutes: between two states within an epoch; say: in the log."""
        self.path, self.digest, self.seconds, self.say = path, digest, 60 * minutes, say
        self.stopping, self.saved_at = False, time.monotonic()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number, frame):
        self.stopping = True

    def load(self) -> dict | None:
        main = distributed.is_main_process()
        return distributed.broadcast_object(load(self.path, self.digest) if main else None)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, training: Training) -> None:
        """A disk that is full for an hour costs the safety of that hour, not the training."""
        if distributed.is_main_process():
            try:
                save(self.path, self.digest, training.state())
            except OSError as error:
                self.say(f"warning: the state could not be saved, the one before is kept ({error})")
        self.saved_at = time.monotonic()
