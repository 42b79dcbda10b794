"""Batches: the order of the photos in an epoch, worker processes, and the copy to a GPU.

The content of a batch depends neither on the number of workers nor on where a training was interrupted.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from carpose.core.errors import UserError
from carpose.core.machine import check_socket_path
from carpose.heads.head import STRIDE
from carpose.heads.targets import pad_targets

from .samples import Batch, Photos, Sample, Samples, normalised

PREFETCH_FACTOR = 2  # batches that each worker prepares in advance


def epoch_order(
    epoch: int, labelled: int, pseudo_labelled: int, pseudo_share: float, seed: int
) -> np.ndarray:
    """Indices of the photos of one epoch: `labelled` samples, a share of them pseudo-labelled photos.

    Photos 0 … labelled − 1 are labelled, the next `pseudo_labelled` ones are pseudo-labelled.
    """
    rng = np.random.default_rng([seed, epoch])
    pseudo_count = round(pseudo_share * labelled) if pseudo_labelled else 0
    chosen = rng.permutation(labelled)[: labelled - pseudo_count]
    repeats = -(-pseudo_count // max(pseudo_labelled, 1))
    pseudo = [rng.permutation(pseudo_labelled) + labelled for _ in range(repeats)]
    return rng.permutation(np.concatenate([chosen, *pseudo])[:labelled])


def batches(epoch: int, order: np.ndarray, batch_size: int, first_batch: int) -> Iterator[list[tuple]]:
    """Keys of Samples by batch, from batch number `first_batch` on; an incomplete last batch is dropped."""
    for batch in range(first_batch, max(len(order) // batch_size, 1)):
        positions = range(batch * batch_size, min((batch + 1) * batch_size, len(order)))
        yield [(epoch, position, int(order[position])) for position in positions]


def stream(
    samples: Samples,
    epochs: range,
    first_batch: int,
    device: torch.device,
    *,
    workers: int = 0,
    shard: Callable[[list], list] | None = None,
    fixed_shape: bool = False,
) -> Iterator[Batch]:
    """All batches of these epochs; the first epoch begins with its batch number `first_batch`.

    shard: keys of a batch → the keys of this process, where several processes share each batch; all else as
    of `load_samples`.

    The workers live for all epochs: starting new ones takes time, and after each fork this process copies
    every page that it writes to (copy-on-write).
    """
    train_config, pseudo_labelled = samples.train_config, len(samples) - samples.labelled_count

    def keys() -> Iterator[list[tuple]]:
        for epoch in epochs:
            order = epoch_order(
                epoch, samples.labelled_count, pseudo_labelled, train_config.pseudo_share, train_config.seed
            )
            yield from batches(
                epoch, order, train_config.batch_size, first_batch if epoch == epochs.start else 0
            )

    all_keys = map(shard, keys()) if shard else keys()
    return load_samples(samples, all_keys, device, workers=workers, fixed_shape=fixed_shape)


def load_samples(
    samples: Samples,
    keys: Iterable[list[tuple]],
    device: torch.device,
    *,
    workers: int = 0,
    fixed_shape: bool = False,
) -> Iterator[Batch]:
    """A batch for each list of keys of Samples, of at most the training configuration's batch size.

    For the CPU images are normalised float32; for a GPU they stay uint8, a quarter of the bytes to copy.
    workers: processes that prepare the batches; fixed_shape: pad the targets of all batches to one shape.
    Raises UserError if there is too little shared memory for the workers, or TMPDIR is too long.
    """
    train_config, on_cpu = samples.train_config, device.type == "cpu"
    max_cars = max(train_config.batch_size * samples.max_cars(), 1)

    def collate(batch: list[Sample]) -> Batch:
        images, targets, image_ids = samples.collate(batch)
        if fixed_shape:
            targets = pad_targets(targets, max_cars)
        return normalised(images, train_config) if on_cpu else images, targets, image_ids

    pixels = train_config.batch_size * train_config.input_width * train_config.input_height
    map_bytes = 8 * (pixels // STRIDE**2)  # heat map and ignore map of a batch, at most
    check_shared_memory((16 if on_cpu else 4) * pixels + map_bytes, workers)  # all shards together
    loader = torch.utils.data.DataLoader(
        samples,
        batch_sampler=keys,
        collate_fn=collate,
        pin_memory=not on_cpu,
        **_processes(workers),
    )
    return iter(loader) if on_cpu else on_device(loader, device)


def photo_batches(
    photos: Photos, batch_size: int, workers: int = 0
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield images (B, H, W, 4) uint8 with their ImageIds; the last batch may be smaller.

    Raises UserError if there is too little shared memory for the workers, or TMPDIR is too long.
    """
    train_config, image_ids = photos.train_config, photos.image_ids
    check_shared_memory(4 * batch_size * train_config.input_width * train_config.input_height, workers)
    loader = torch.utils.data.DataLoader(
        photos,
        batch_size=batch_size,
        collate_fn=lambda images: torch.from_numpy(np.stack(images)),
        **_processes(workers),
    )
    for start, images in zip(range(0, len(image_ids), batch_size), loader, strict=True):
        yield images, image_ids[start : start + batch_size]


def _processes(workers: int) -> dict:
    """Options of torch's DataLoader for forked workers, which inherit open files; 0: this process loads."""
    options = {"generator": torch.Generator()}  # keeps torch's global one as it is
    if workers:
        if torch.multiprocessing.get_sharing_strategy() == "file_descriptor":
            check_socket_path()
        options |= {
            "num_workers": workers,
            "prefetch_factor": PREFETCH_FACTOR,
            "multiprocessing_context": "fork",
            "worker_init_fn": _leave_process_group,
        }
    return options


def _leave_process_group(worker: int) -> None:
    """Give a new worker a process group of its own: Slurm and torchrun send SIGTERM to the training's group.

    If SIGTERM killed a worker, the training would fail before it had saved its state. The training stops its
    workers itself.
    """
    os.setpgid(0, 0)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a GPU. Each is copied on a stream of its own while the step before is computed."""
    copy_stream = torch.cuda.Stream(device)
    in_flight: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def next_copied() -> Batch:
        (images, targets, image_ids), copied = in_flight.popleft()
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in (images, *targets.values()):
            tensor.record_stream(current)  # its memory is not reused before that stream is done with it
        return images, targets, image_ids

    for images, targets, image_ids in batches:
        with torch.cuda.stream(copy_stream):
            images = images.to(device, non_blocking=True)
            moved = {
                name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in targets.items()
            }
        in_flight.append(((images, moved, image_ids), copy_stream.record_event()))
        if len(in_flight) > 1:
            yield next_copied()
    while in_flight:
        yield next_copied()


def check_shared_memory(batch_bytes: int, workers: int, folder: str = "/dev/shm") -> None:
    """Raises UserError if the workers' batches do not fit into shared memory: torch would hang or crash."""
    needed = (PREFETCH_FACTOR + 1) * workers * batch_bytes  # one more per worker for batches in transfer
    free = shutil.disk_usage(folder).free if Path(folder).exists() else needed
    if free < needed:
        raise UserError(
            f"workers: {workers} of them need {needed >> 20} MB in {folder}, which has {free >> 20} MB free; "
            f"use fewer workers, or give a container more (docker run --shm-size {-(-needed >> 30)}g)"
        )
