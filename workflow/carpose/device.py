"""Where a stage computes: the device, its number format, and one training per GPU.

Snakemake does not hand out GPUs on one machine; a lock file per device does. Slurm does, and then
CUDA_VISIBLE_DEVICES holds only what the job owns, so the lock is always free.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def lease(gpus: int) -> Iterator[torch.device]:
    """Yield the CPU (gpus = 0) or a CUDA device nobody else of ours computes on, waiting for one."""
    if gpus == 0 or not torch.cuda.is_available():
        yield torch.device("cpu")
        return
    folder = Path(tempfile.gettempdir()) / f"carpose-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            for index in range(torch.cuda.device_count()):
                name = torch.cuda.get_device_properties(index).uuid
                handle = stack.enter_context(open(folder / f"{name}.lock", "w"))
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    handle.close()
                    continue
                torch.cuda.set_device(index)
                yield torch.device("cuda", index)
                return
            time.sleep(2)


def number_format(device: torch.device, wish: str) -> torch.dtype | None:
    """The dtype of autocast, or None for float32. `auto` takes bf16 where the hardware computes in it."""
    if wish == "off":
        return None
    if wish != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}[wish]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    cpu = torch.cpu.get_capabilities()
    # Intel's AVX-512 multiplies bf16 no faster than float32, and converting costs more (docs/benchmarks.md).
    fast = cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and "Intel" not in cpu.get("cpu_name", ""))
    return torch.bfloat16 if fast else None
