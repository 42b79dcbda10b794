"""Machines without file locks, process affinity or a short folder for temporary files."""

import errno
import fcntl
import multiprocessing.util
import os
import subprocess
import sys

import pytest

from carpose.core import machine
from carpose.core.errors import UserError
from carpose.data import loader
from carpose.network import device
from carpose.train import state
from tests.helpers import ENVIRONMENT


def failing_flock(number):
    def flock(handle, operation):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_training_goes_on_without_locks(tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr(fcntl, "flock", failing_flock(number))
    monkeypatch.setattr(machine, "_warned", set())
    for name in "ab":
        with state.state_lock(tmp_path / f"{name}.pt"):
            pass
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "a.pt.lock: the file system has no locks" in warning

    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 1)
    properties = type("Properties", (), {"uuid": "gpu0"})
    monkeypatch.setattr(device.torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    assert list(device.lock_gpus(1)) == [0]
    assert "may use the same GPU" in capsys.readouterr().err


def test_other_errors_of_a_lock_are_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing_flock(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), state.state_lock(tmp_path / "state.pt"):
        pass


def test_cores_without_affinity(monkeypatch):
    assert machine.core_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.core_count() == os.cpu_count() and device.worker_count(10_000) == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.core_count() == 1


def test_workers_need_a_short_folder_of_temporary_files(tmp_path):
    """The limit is that of the socket that a worker binds."""
    program = "import multiprocessing.connection as c; from carpose.core.machine import check_socket_path\n"
    program += "check_socket_path(); c.Listener()"
    for length, works in ((75, True), (76, False)):
        folder = f"/tmp/{os.getpid()}".ljust(length, "x")
        os.mkdir(folder)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=ENVIRONMENT | {"TMPDIR": folder},
                capture_output=True,
                text=True,
            )
        finally:
            for entry in os.listdir(folder):
                os.rmdir(os.path.join(folder, entry))
            os.rmdir(folder)
        assert (done.returncode == 0) == works, done.stderr
        assert works or "1 characters too long" in done.stderr


def test_a_loader_checks_the_folder_before_it_starts_workers(monkeypatch):
    monkeypatch.setattr(multiprocessing.util, "get_temp_dir", lambda: f"/{'x' * 100}/pymp-12345678")
    with pytest.raises(UserError, match=r"TMPDIR: /x+ is .* too long .*; set TMPDIR"):
        loader._processes(1)
    assert "num_workers" not in loader._processes(0)
