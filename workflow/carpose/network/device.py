"""Where a stage computes: the device, its number format, and one training per GPU.

Snakemake does not hand out GPUs on one machine; a lock file per device does. Slurm does, and then
CUDA_VISIBLE_DEVICES holds only what the job owns, so the lock is always free.
"""

import contextlib
import fcntl
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import torch

from carpose.core.errors import UserError


@contextlib.contextmanager
def acquire_device(gpus: int) -> Iterator[torch.device]:
    """Yield the CPU (gpus = 0) or a CUDA device nobody else of ours computes on, waiting for one.

    A process that torchrun started takes the device of its number among those that it sees. Raises UserError
    where NVIDIA's driver is there, but torch cannot use it.
    """
    if gpus == 0 or not torch.cuda.is_available():
        if gpus:
            check_no_gpu()
        yield torch.device("cpu")
        return
    if "LOCAL_RANK" in os.environ:
        index, lock = int(os.environ["LOCAL_RANK"]), contextlib.nullcontext()
        count = torch.cuda.device_count()
        if index >= count:
            raise UserError(f"gpus: process {index} of this machine finds {count} GPUs; start fewer")
    else:
        [(index, lock)] = acquire(1).items()
    with lock:
        torch.cuda.set_device(index)
        set_deterministic()
        yield torch.device("cuda", index)


def check_no_gpu(driver: str = "/dev/nvidiactl") -> None:
    """Raises UserError where there is a driver all the same: days on the CPU are not what was meant."""
    if os.path.exists(driver) and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        raise UserError(
            f"gpus: this machine has NVIDIA's driver, but PyTorch {torch.__version__} finds no GPU: install "
            f"a build for this driver (nvidia-smi says its CUDA version), or compute on the CPU with gpus: 0"
        )


def worker_count(workers: int) -> int:
    """So many worker processes, but no more than cores, on which they would be in each other's way."""
    return min(workers, len(os.sched_getaffinity(0)))


def acquire(count: int) -> dict[int, IO]:
    """The numbers of so many free GPUs with the open files that hold their locks, waiting for them.

    All or none: two trainings that held half of theirs would wait for each other for ever. Raises UserError
    where there are fewer.
    """
    present = torch.cuda.device_count()
    if present < count:
        raise UserError(f"gpus: {count} are asked for, this machine has {present}; set gpus: {present}")
    folder = Path(tempfile.gettempdir()) / f"carpose-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    announced = False
    while True:
        locks: dict[int, IO] = {}
        for index in range(present):
            name = torch.cuda.get_device_properties(index).uuid
            handle = open(folder / f"{name}.lock", "w")  # noqa: SIM115  it is kept
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            locks[index] = handle
            if len(locks) == count:
                return locks
        for handle in locks.values():
            handle.close()
        if not announced:
            print(f"waiting for {count} of {present} GPUs to be free", flush=True)
        announced = True
        time.sleep(random.uniform(1, 3))  # not in step with another one that waits


def fetch(values: torch.Tensor) -> Callable[[], list[float]]:
    """Bring a few numbers from the device. The call that is returned waits for them, but for nothing that was
    started later."""
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
    """From now on the GPU gives the same bits each time, where torch can; to be called before it computes."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and nothing reads it


def autocast_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The dtype of autocast, or None for float32. `auto` takes bf16 where the hardware computes in it."""
    if amp == "off":
        return None
    if amp != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    cpu = torch.cpu.get_capabilities()
    # Intel's AVX-512 multiplies bf16 no faster than float32, and converts slowly (docs/lab/profiles.md).
    fast = cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and "Intel" not in cpu.get("cpu_name", ""))
    return torch.bfloat16 if fast else None
