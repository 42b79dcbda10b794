"""One training by several processes (torchrun), each with its share of every batch, on its own GPU.

Losses are sums over cars divided by the cars of the whole batch, so that the mean of the processes' losses
and gradients, which is what DistributedDataParallel makes, is that of one process with the whole batch.
Process 0 alone reads and writes files. With one process everything here does nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import models.torchvision_shim  # noqa: F401  must come before timm

from timm.layers import convert_sync_batchnorm  # isort: skip

from carpose.core.errors import UserError
from carpose.network.device import acquire

# While process 0 validates or waits for a file's lock the others wait; torchrun ends all if one dies.
PATIENCE = timedelta(days=1)


def size() -> int:
    """Processes of this training."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process, 0 … size − 1."""
    return int(os.environ.get("RANK", 0))


def is_main_process() -> bool:
    """Of the one that reads and writes files."""
    return rank() == 0


def launch(processes: int, module: str) -> None:
    """Become torchrun with so many processes of `python -m module` and this command line; does not return.

    It waits for as many free GPUs, which stay its own and are all that its processes see. For one process,
    and for those that torchrun has started, it returns at once. Raises UserError where there are too few.
    """
    if processes < 2 or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    if torch.cuda.is_available():
        locks = acquire(processes)
        for handle in locks.values():
            os.set_inheritable(handle.fileno(), True)  # the lock outlives this program
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in locks)
    if sys.flags.safe_path:  # `python -P`: its processes, too
        os.environ["PYTHONSAFEPATH"] = "1"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    # Slurm's warning signal is passed on too.
    signals = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    os.execv(sys.executable, [*torchrun, str(processes), *signals, "-m", module, *sys.argv[1:]])


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Meet the other processes."""
    if size() == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    # Not after an error: it waits for the others, which wait for this process. torchrun ends them.
    dist.destroy_process_group()


def check(photos: int, processes: int) -> None:
    """Raises UserError where a batch of so many photos cannot be shared equally."""
    if photos % processes:
        raise UserError(f"batch_size: {processes} GPUs cannot share {photos} photos equally; take a multiple")


def shard(batch: list) -> list:
    """This process's part of a batch."""
    return batch[rank() :: size()]


def wrap(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network whose backward pass averages the gradients of all processes.

    Raises UserError for batch normalisation on the CPU, where torch cannot synchronise it.
    """
    if size() == 1:
        return model
    if device.type == "cpu" and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        raise UserError("several processes on the CPU cannot share batch normalisation; set norm: group")
    # Every step has the same graph; synchronised norms have the same statistics everywhere.
    return DistributedDataParallel(
        model, static_graph=True, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def synchronised(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The same network, its batch normalisation over the whole batch of all processes.

    torch's own conversion would lose the activations that timm keeps in its batch norms.
    """
    if size() == 1 or device.type == "cpu":
        return model
    return convert_sync_batchnorm(model)


def count(counts: torch.Tensor) -> torch.Tensor:
    """Σ over the processes of numbers of cars or cells (one or more), each at least 1, per process."""
    return mean(counts).clamp(min=1 / size())


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes of a few numbers, the same on all."""
    if size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / size()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is raised in any process: a signal may reach them in different steps."""
    if size() == 1:
        return flag
    return bool(mean(torch.tensor([float(flag)], device=device)))


def broadcast_object(value):
    """What the main process has, for all."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]
