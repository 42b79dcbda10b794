"""The device that a stage computes on, its number format, and locks that give each training a GPU of its own.

On a single machine Snakemake does not assign GPUs to jobs; a lock file per GPU does. Slurm assigns them:
then CUDA_VISIBLE_DEVICES lists the job's GPUs alone, and their locks are always free.
"""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import torch

from carpose.core.errors import UserError
from carpose.core.machine import core_count, lock_file

UNLOCKED = "trainings that run at once may use the same GPU; set TMPDIR to a folder on a local disk"


@contextlib.contextmanager
def acquire_device(gpus: int) -> Iterator[torch.device]:
    """Yield the CPU (gpus = 0, or no GPU) or a GPU that is locked until the end; waits until one is free.

    A process started by torchrun uses the visible GPU with the index LOCAL_RANK, without a lock. Raises
    UserError if NVIDIA's driver is installed, but torch finds no GPU, or fewer than there are processes.
    """
    if gpus == 0 or not torch.cuda.is_available():
        if gpus:
            check_no_driver()
        yield torch.device("cpu")
        return
    if "LOCAL_RANK" in os.environ:
        index = int(os.environ["LOCAL_RANK"])
        lock: contextlib.AbstractContextManager = contextlib.nullcontext()
        count = torch.cuda.device_count()
        if index >= count:
            raise UserError(
                f"gpus: process {index} of this machine finds {count} GPUs; start at most {count} processes"
            )
    else:
        [(index, lock)] = lock_gpus(1).items()
    with lock:
        torch.cuda.set_device(index)
        set_deterministic()
        yield torch.device("cuda", index)


def check_no_driver(driver: str = "/dev/nvidiactl") -> None:
    """Raises UserError if NVIDIA's driver is installed, where torch finds no GPU: a training would take days
    on the CPU by mistake. A CUDA_VISIBLE_DEVICES that hides all GPUs allows it."""
    # CUDA sees the GPUs before the first invalid entry. -1 is the usual one, NoDevFiles is Slurm's.
    first_visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    hidden = first_visible in ("", "NoDevFiles") or first_visible.startswith("-")
    if os.path.exists(driver) and not hidden:
        raise UserError(
            f"gpus: this machine has NVIDIA's driver, but PyTorch {torch.__version__} finds no GPU; install "
            "a build for this driver (nvidia-smi shows its CUDA version), or use the CPU with gpus: 0"
        )


def worker_count(workers: int) -> int:
    """The number of worker processes, at most the number of cores of this process."""
    return min(workers, core_count())


def lock_gpus(count: int) -> dict[int, IO]:
    """Lock `count` GPUs, waiting until they are free: index → the open file that holds the lock.

    It takes all or none: two trainings with half of their GPUs each would deadlock. Raises UserError if the
    machine has fewer.
    """
    available = torch.cuda.device_count()
    if available < count:
        raise UserError(f"gpus: {count} are requested, this machine has {available}; set gpus: {available}")
    folder = Path(tempfile.gettempdir()) / f"carpose-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    waiting_announced = False
    while True:
        locks: dict[int, IO] = {}
        for index in range(available):
            name = torch.cuda.get_device_properties(index).uuid
            handle = open(folder / f"{name}.lock", "w", encoding="utf-8")  # noqa: SIM115  closing it would release the lock
            try:
                lock_file(handle, wait=False, consequence=UNLOCKED)
            except BlockingIOError:
                handle.close()
                continue
            locks[index] = handle
            if len(locks) == count:
                return locks
        for lock in locks.values():
            lock.close()
        if not waiting_announced:
            print(f"waiting for {count} of {available} GPUs to be free", flush=True)
        waiting_announced = True
        time.sleep(random.uniform(1, 3))  # random, so that two waiting processes do not collide again


def fetch(values: torch.Tensor) -> Callable[[], list[float]]:
    """Start to copy a few numbers (N,) from the device. The function returned waits for this copy, not for
    work queued later, and gives a list."""
    if values.device.type == "cpu":
        return values.tolist
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    event = torch.cuda.current_stream().record_event()

    def wait() -> list[float]:
        event.synchronize()
        return copy.tolist()

    return wait


def set_deterministic() -> None:
    """Make torch use deterministic algorithms where it has them; to be called before the GPU is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and no code here reads it


def autocast_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The dtype of autocast for the key `amp`, or None for float32. `auto`: bf16 where the hardware is fast
    in it; else fp16 on a GPU, float32 on a CPU."""
    if amp == "off":
        return None
    if amp != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    cpu = torch.cpu.get_capabilities()
    # Intel's AVX-512 multiplies bf16 no faster than float32, and conversion is slow (docs/lab/profiles.md).
    fast = cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and "Intel" not in cpu.get("cpu_name", ""))
    return torch.bfloat16 if fast else None
