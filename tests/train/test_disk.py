"""A full or read-only disk: a real file system, mounted by the test, which needs root."""

import contextlib
import os
import subprocess

import pytest
import torch

from carpose.train import state
from tests.helpers import options, run_module


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_module(*options(prepared, folder))
    return (folder / "model.pt").read_bytes()


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_a_full_disk_for_the_state_does_not_stop_a_training(prepared, undisturbed, disk, tmp_path):
    (disk / "state.pt.lock").touch()
    fill(disk)
    done = run_module(*options(prepared, tmp_path, "--state", disk / "state.pt"))
    # Twice per epoch: before and after the validation.
    assert done.stdout.count("the state could not be saved") == 6 and "No space left" in done.stdout
    assert (tmp_path / "model.pt").read_bytes() == undisturbed
    assert not (disk / "state.pt").exists()


def test_a_full_disk_for_the_model_keeps_the_state(prepared, undisturbed, disk, tmp_path):
    command = options(prepared, disk, "--state", tmp_path / "state.pt")
    fill(disk)
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - 4096)  # room for the history alone
    done = run_module(*command, check=False)
    assert done.returncode == 2 and "error: " in done.stderr and "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (disk / "model.pt").exists() and not list(disk.glob(".model*"))
    (disk / "filler").unlink()
    again = run_module(*command)
    assert "going on at epoch 4" in again.stdout, "nothing is trained twice"
    assert (disk / "model.pt").read_bytes() == undisturbed


def test_a_read_only_disk_is_an_error_before_the_training(prepared, disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    command = options(prepared, disk, "--state", tmp_path / "state.pt")
    done = run_module(*command, check=False)
    assert done.returncode == 2 and "Read-only file system" in done.stderr
    assert "epoch 1" not in done.stdout and "Traceback" not in done.stderr


def test_modification_times_of_states_do_not_matter(tmp_path):
    """The newest state is known by its name."""
    path = tmp_path / "state.pt"
    for number in (1, 2):
        state.save(path, "a", {"x": torch.tensor(number)})
    for file, year in ((path, 0), (path.with_name("state.pt.previous"), 4e9)):
        os.utime(file, (year, year))
    assert state.load(path, "a")["x"] == 2
