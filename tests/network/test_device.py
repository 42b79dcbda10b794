"""The number format follows the hardware; every training locks its GPUs."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest
import torch

from carpose.core.errors import UserError
from carpose.network import device
from carpose.network.device import autocast_dtype
from carpose.train import distributed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"cpu_name": "AMD EPYC 9R14", "avx512_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"cpu_name": "AMD Ryzen", "avx512_bf16": False}, None),
        ({}, None),
    ],
)
def test_bf16_where_it_is_fast(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert autocast_dtype(CPU, "auto") is expected
    assert autocast_dtype(CPU, "off") is None and autocast_dtype(CPU, "bf16") is torch.bfloat16


# GPU locks. torch's answers are mocked, the locks are real.


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """A machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu{index}")
    )
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "set_deterministic", lambda: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_training_has_a_gpu_of_its_own(gpus):
    with device.acquire_device(1) as one, device.acquire_device(1) as two:
        assert (one.index, two.index) == (0, 1)
    with device.acquire_device(1) as again:
        assert again.index == 0
    with device.acquire_device(0) as no_gpu:
        assert no_gpu.type == "cpu"


def test_gpus_of_one_training_are_locked_all_or_none(gpus, monkeypatch, capsys):
    """A training that waits for two GPUs does not hold a free one meanwhile."""
    other = device.lock_gpus(1)
    waits = []

    def pause(seconds):
        waits.append(list(device.lock_gpus(1)))  # the free GPU can be locked by others
        if len(waits) == 2:
            other[0].close()

    monkeypatch.setattr(time, "sleep", pause)
    assert list(device.lock_gpus(2)) == [0, 1]
    assert waits == [[1], [1]]
    assert capsys.readouterr().out.count("waiting for 2 of 2 GPUs") == 1


def test_more_gpus_than_there_are(gpus, monkeypatch):
    with pytest.raises(UserError, match="gpus: 3 are requested, this machine has 2"):
        device.lock_gpus(3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 of this machine finds 2 GPUs"), device.acquire_device(1):
        pass


def test_processes_see_the_gpus_that_launch_locked(gpus, monkeypatch):
    busy = device.lock_gpus(1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    started = []

    def become(program, arguments):
        locks = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        started.append(
            (arguments[arguments.index("--nproc-per-node") + 1], os.environ["CUDA_VISIBLE_DEVICES"])
        )
        assert sum("gpu1.lock" in name or "gpu2.lock" in name for name in locks) == 2  # still held

    monkeypatch.setattr(os, "execv", become)
    distributed.launch(2, "carpose.train")
    assert started == [("2", "6,7")]
    busy[0].close()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with device.acquire_device(2) as gpu:  # of the visible ones, without a lock
        assert gpu.index == 1


def test_locks_survive_exec(tmp_path):
    """distributed.launch relies on it: a lock belongs to an inherited file descriptor."""
    code = f"""
import fcntl, os, sys
handle = open({str(tmp_path / "lock")!r}, "w")
fcntl.flock(handle, fcntl.LOCK_EX)
os.set_inheritable(handle.fileno(), True)
os.execv(sys.executable, [sys.executable, "-c", "print('locked', flush=True); input()"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as program:
        assert program.stdout.readline() == "locked\n"
        with open(tmp_path / "lock", "w", encoding="utf-8") as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        program.communicate("\n")
    with open(tmp_path / "lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_gpu_that_torch_cannot_use_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device.check_no_driver(str(tmp_path / "none"))
    with pytest.raises(UserError, match="has NVIDIA's driver, but PyTorch .* finds no GPU"):
        device.check_no_driver(str(tmp_path))
    for hidden in ("", "-1", " -1", "-1,0", "NoDevFiles"):  # on purpose
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        device.check_no_driver(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1")
    with pytest.raises(UserError, match="finds no GPU"):
        device.check_no_driver(str(tmp_path))


def test_no_more_workers_than_cores():
    assert device.worker_count(0) == 0 and device.worker_count(1) == 1
    assert device.worker_count(1000) == len(os.sched_getaffinity(0))
