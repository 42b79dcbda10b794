"""One training by several processes (torchrun): each computes a shard of every batch on a GPU of its own.

Losses are sums over cars, divided by the mean number of cars per process. So the mean over the processes of
losses and gradients (DistributedDataParallel) equals those of one process with the whole batch. Only the main
process, rank 0, reads and writes files. With a single process these functions do nothing.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import models.torchvision_shim  # noqa: F401  must come before timm

from timm.layers import convert_sync_batchnorm  # isort: skip

from carpose.core.errors import UserError
from carpose.network.device import lock_gpus

# Long: the others wait while process 0 validates or waits for a lock. torchrun stops all if one fails.
TIMEOUT = timedelta(days=1)


def world_size() -> int:
    """The number of processes of this training."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, 0 … world_size − 1."""
    return int(os.environ.get("RANK", 0))


def is_main_process() -> bool:
    """Whether this is the process that reads and writes files."""
    return rank() == 0


def launch(processes: int, module: str) -> None:
    """Replace this program by torchrun with `processes` times `python -m module` and the same arguments.

    It first waits for as many free GPUs; their locks are kept, and the processes see these GPUs alone. For a
    single process, and in a process started by torchrun, it returns at once. Raises UserError if the machine
    has too few GPUs.
    """
    if processes < 2 or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    if torch.cuda.is_available():
        locks = lock_gpus(processes)
        for handle in locks.values():
            os.set_inheritable(handle.fileno(), True)  # the lock survives exec
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in locks)
    if sys.flags.safe_path:  # `python -P` applies to its processes, too
        os.environ["PYTHONSAFEPATH"] = "1"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    # Passed on to the processes; SIGUSR1 is Slurm's warning.
    signals = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    os.execv(sys.executable, [*torchrun, str(processes), *signals, "-m", module, *sys.argv[1:]])


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of all processes."""
    if world_size() == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    yield
    # Not after an error: it would wait for the others, which wait for this process. torchrun stops them.
    dist.destroy_process_group()


def check_batch_size(photos: int, processes: int) -> None:
    """Raises UserError if a batch of so many photos cannot be shared equally."""
    if photos % processes:
        raise UserError(f"batch_size: {processes} GPUs cannot share {photos} photos equally; use a multiple")


def shard(batch: list) -> list:
    """This process's shard of a batch."""
    return batch[rank() :: world_size()]


def wrap(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network as DistributedDataParallel, which averages the gradients of all processes.

    Raises UserError for batch normalisation on the CPU, where torch cannot synchronise it.
    """
    if world_size() == 1:
        return model
    if device.type == "cpu" and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        raise UserError("several processes on the CPU cannot share batch normalisation; set norm: group")
    # The graph of every step is the same; synchronised norms have equal statistics in all processes.
    return DistributedDataParallel(
        model, static_graph=True, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def sync_batch_norms(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network with batch normalisation over the batches of all processes (SyncBatchNorm).

    By timm: torch's own conversion would drop the activations inside timm's batch norms.
    """
    if world_size() == 1 or device.type == "cpu":
        return model
    return convert_sync_batchnorm(model)


def mean_counts(counts: torch.Tensor) -> torch.Tensor:
    """The mean over the processes of counts (N,) of cars or cells; a total of 0 is taken as 1."""
    return mean(counts).clamp(min=1 / world_size())


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the processes, the same in all of them."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process: a signal may reach them in different steps."""
    if world_size() == 1:
        return flag
    return bool(mean(torch.tensor([float(flag)], device=device)))


def broadcast_object(value: Any) -> Any:
    """The main process's value, in all processes: tensors, numbers, texts, lists and dictionaries of them.

    torch's broadcast_object_list would unpickle whatever another process sends, which can run code.
    """
    if world_size() == 1:
        return value
    # "cuda" is the process's current GPU; NCCL sends nothing else.
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    buffer = io.BytesIO()
    if is_main_process():
        torch.save(value, buffer)
    size = torch.tensor([buffer.tell()], device=device)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8, device=device)
    if is_main_process():
        data.copy_(torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return torch.load(io.BytesIO(data.cpu().numpy().data), map_location="cpu", weights_only=True)
