"""Batches: the order of an epoch, the processes that prepare them, the way to a GPU.

What they hold depends neither on the number of processes nor on where a training was interrupted.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from carpose.core.errors import UserError
from carpose.heads.head import STRIDE
from carpose.heads.targets import pad_targets

from .samples import Batch, Photos, Sample, Samples, normalised

PREFETCHED = 2  # batches that each worker prepares ahead


def epoch_order(epoch: int, labelled: int, unlabelled: int, share: float, seed: int) -> np.ndarray:
    """The photos of one epoch: as many samples as labelled photos, `share` of them pseudo-labelled.

    Photos 0 … labelled−1 are labelled, the next `unlabelled` ones pseudo-labelled.
    """
    rng = np.random.default_rng([seed, epoch])
    extra = round(share * labelled) if unlabelled else 0
    chosen = rng.permutation(labelled)[: labelled - extra]
    rounds = -(-extra // max(unlabelled, 1))
    pseudo = [rng.permutation(unlabelled) + labelled for _ in range(rounds)]
    return rng.permutation(np.concatenate([chosen, *pseudo])[:labelled])


def batches(epoch: int, order: np.ndarray, batch_size: int, first: int) -> Iterator[list[tuple]]:
    """Keys of Samples in batches, from batch number `first` on; an incomplete last batch is dropped."""
    for batch in range(first, max(len(order) // batch_size, 1)):
        places = range(batch * batch_size, min((batch + 1) * batch_size, len(order)))
        yield [(epoch, place, int(order[place])) for place in places]


def stream(
    samples: Samples,
    epochs: range,
    first: int,
    device: torch.device,
    *,
    workers: int = 0,
    shard: Callable[[list], list] | None = None,
    fixed_shape: bool = False,
) -> Iterator[Batch]:
    """All batches of these epochs, from batch number `first` of the first one on.

    On the CPU pictures come normalised, on a GPU as bytes, a quarter of the way. workers: processes that
    prepare the batches; shard: keys of a batch → those of this process, where several share each batch;
    fixed_shape: targets of all batches are padded to one shape. Raises UserError where workers have too
    little shared memory.

    The same workers prepare them throughout: new ones in each epoch would cost their start, and this process
    a copy of every page that it writes to for the first time after a fork.
    """
    train_config, unlabelled = samples.train_config, len(samples) - samples.labelled
    max_cars = max(train_config.batch_size * samples.most_cars(), 1)
    on_cpu = device.type == "cpu"

    def keys() -> Iterator[list[tuple]]:
        for epoch in epochs:
            order = epoch_order(
                epoch, samples.labelled, unlabelled, train_config.pseudo_share, train_config.seed
            )
            yield from batches(epoch, order, train_config.batch_size, first if epoch == epochs.start else 0)

    def collate(batch: list[Sample]) -> Batch:
        pictures, targets, image_ids = samples.collate(batch)
        if fixed_shape:
            targets = pad_targets(targets, max_cars)
        return normalised(pictures, train_config) if on_cpu else pictures, targets, image_ids

    pixels = train_config.batch_size * train_config.input_width * train_config.input_height
    maps = 8 * (pixels // STRIDE**2)  # bytes of a batch's heat and ignore maps, at most
    check_shared_memory((16 if on_cpu else 4) * pixels + maps, workers)  # of all processes together
    loader = torch.utils.data.DataLoader(
        samples,
        batch_sampler=map(shard, keys()) if shard else keys(),
        collate_fn=collate,
        pin_memory=not on_cpu,
        **_processes(workers),
    )
    return iter(loader) if on_cpu else on_device(loader, device)


def photo_batches(
    photos: Photos, batch_size: int, workers: int = 0
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Pictures (B, H, W, 4) uint8 with their ImageIds; the last batch may be smaller."""
    train_config, image_ids = photos.train_config, photos.image_ids
    check_shared_memory(4 * batch_size * train_config.input_width * train_config.input_height, workers)
    loader = torch.utils.data.DataLoader(
        photos,
        batch_size=batch_size,
        collate_fn=lambda pictures: torch.from_numpy(np.stack(pictures)),
        **_processes(workers),
    )
    for start, pictures in zip(range(0, len(image_ids), batch_size), loader, strict=True):
        yield pictures, image_ids[start : start + batch_size]


def _processes(workers: int) -> dict:
    """Options of torch's DataLoader: forked workers, which see what is open; without any, this process."""
    options = {"generator": torch.Generator()}  # else the workers' seed is drawn from the training's numbers
    if workers:
        options |= {
            "num_workers": workers,
            "prefetch_factor": PREFETCHED,
            "multiprocessing_context": "fork",
            "worker_init_fn": _leave_process_group,
        }
    return options


def _leave_process_group(worker: int) -> None:
    """In a new worker: leave the group of processes, all of which Slurm and torchrun send SIGTERM.

    A worker dies of it and takes the training along, which was to save its state. It ends its workers itself.
    """
    os.setpgid(0, 0)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on a GPU, each copied there while the one before is computed on."""
    copy_stream = torch.cuda.Stream(device)
    in_flight: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def arrived() -> Batch:
        (pictures, targets, image_ids), copied = in_flight.popleft()
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in (pictures, *targets.values()):
            tensor.record_stream(current)  # its memory is not given out again before that is done
        return pictures, targets, image_ids

    for pictures, targets, image_ids in batches:
        with torch.cuda.stream(copy_stream):
            pictures = pictures.to(device, non_blocking=True)
            moved = {
                name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in targets.items()
            }
        in_flight.append(((pictures, moved, image_ids), copy_stream.record_event()))
        if len(in_flight) > 1:
            yield arrived()
    while in_flight:
        yield arrived()


def check_shared_memory(batch: int, workers: int, folder: str = "/dev/shm") -> None:
    """Raises UserError where the batches, of so many bytes, do not fit into the memory in which torch's
    workers leave them: it would wait for them for ever, or die of it."""
    needed = (PREFETCHED + 1) * workers * batch  # and one more for all that is on its way
    free = shutil.disk_usage(folder).free if Path(folder).exists() else needed
    if free < needed:
        raise UserError(
            f"workers: {workers} of them need {needed >> 20} MB in {folder}, which has {free >> 20} MB free; "
            f"give a container more (docker run --shm-size {-(-needed >> 30)}g), or take fewer workers"
        )
