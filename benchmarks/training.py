"""The whole training loop against its bare network (forward, backward, step on one constant batch).

The loop is carpose.train's own: loader, augmentation, targets, losses, moving average, logging. A step of the
one and a step of the other run in turn (on a GPU, which is to be kept busy, fifty of each), so that a machine
that is now fast, now slow is so to both. Out: milliseconds per step, by the wall clock and on this process's
processor. On a GPU both are CUDA graphs.

    python -m benchmarks.training --workers 1
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import measure
from carpose import data, graphs, train
from carpose.device import repeatable
from carpose.training import Training


class Bare:
    """Steps of nothing but network and optimiser, heads at the same cells as in the training."""

    def __init__(self, training: Training, pictures: torch.Tensor, cells: torch.Tensor):
        self.training, self.pictures, self.cells = training, pictures, cells
        self.run = graphs.Recorded(self.passes) if training.recorded else self.passes

    def passes(self) -> list[torch.Tensor]:
        training = self.training
        for parameter in training.parameters:
            parameter.grad = None
        with torch.autocast(training.device.type, dtype=training.dtype, enabled=training.dtype is not None):
            outputs = training.model(self.pictures, self.cells)
        sum(value.float().mean() for output in outputs for value in output.values()).backward()
        return [parameter.grad for parameter in training.parameters]

    def __call__(self) -> None:
        for parameter, gradient in zip(self.training.parameters, self.run(), strict=True):
            parameter.grad = gradient
        self.training.optimizer.step()


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--model", default="hourglass", help="of the configuration")
    parser.add_argument("--config", default="config.yaml", help="or one of configs/*.yaml")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--steps", type=int, default=100, help="steps of one epoch")
    parser.add_argument("--repeats", type=int, default=5, help="epochs")
    parser.add_argument(
        "--ready", action="store_true", help="ten batches made before, over and over; no workers"
    )
    parser.add_argument("--cars", type=int, default=8, help="cars per photo")
    args = parser.parse_args()
    recipe = measure.recipe(args.model, args.config, pretrained="none")
    torch.set_num_threads(recipe.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = 1
    if device.type == "cuda":
        repeatable()  # as a training is
        block = 50
    if args.steps % block:
        parser.error(f"--steps: a multiple of {block}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        left, top, right, bottom = recipe.crop
        # Two network pixels per cache pixel at most, as in the demo.
        scale = min(recipe.input_width / measure.PHOTO[0] * 1.1, 1.0)
        image_ids = measure.made_up_cache(folder, 64, [left, top - 0.06, right, bottom + 0.05], scale)
        cars = measure.made_up_cars(image_ids, args.cars)
        epochs = args.repeats + 1
        # The stream ends after so many times all photos, whatever the loop takes for an epoch.
        passes = 1 + epochs * args.steps * recipe.batch_size // len(image_ids)
        samples = data.Samples(folder, image_ids, cars, recipe, epochs=passes)
        training = Training(recipe, False, None, device)
        alone = Training(recipe, False, None, device)
        alone.model.train()
        batch = next(iter(batches(samples, recipe, 1, 0)))
        pictures = data.network_input(batch[0], device, recipe)
        cells = torch.as_tensor(batch[1]["cell"]).to(device)
        running = SimpleNamespace(workers=args.workers, save_minutes=1e9, name="benchmark", state=None)
        stop = SimpleNamespace(raised=False)
        # A worker's batch lasts only until the next one is taken.
        coming = data.stream(samples, 0, 0, 0 if args.ready else args.workers, device)
        if args.ready:
            coming = itertools.cycle(list(itertools.islice(coming, 10)))
        times = []
        turns = in_turn(coming, Bare(alone, pictures, cells), device, times, block)
        for _ in range(epochs):
            training.progress.batch = 0
            train.run_epoch(running, training, turns, args.steps, lambda step: 1e-3, stop, "")
        next(turns)  # the last step's end
    figures = {"model": args.model, "config": args.config, "workers": args.workers, "device": device.type}
    # (epochs, blocks, loop or network, clock); the first epoch warms up.
    times = 1e3 * np.array(times).reshape(epochs, args.steps // block, 2, 2)[1:]
    for index, clock in enumerate(("wall", "processor")):
        loop, network = times[..., 0, index], times[..., 1, index]
        figures[clock] = {
            "loop, median ms per step": round(float(np.median(loop)), 2),
            "network, median ms per step": round(float(np.median(network)), 2),
            "network / loop, medians": round(float(np.median(network) / np.median(loop)), 3),
            "network / loop, all steps": round(float(network.sum() / loop.sum()), 3),
        }
    measure.finish(args, figures)


def in_turn(
    coming: Iterator, alone: Callable[[], None], device: torch.device, times: list, block: int
) -> Iterator:
    """The same batches; after each `block` of the loop's steps with them `alone` is called as often. `times`
    gets, for each block, ((wall, processor) of a step of the loop with its waiting for the batch, the same of
    `alone`) in seconds.

    Workers start with the next batch when the loop takes one, so it is the loop that they disturb. But they
    have the time of both steps for it: where a batch takes them longer than a step of the loop, the loop
    would wait more often than is seen here."""

    def clocks() -> np.ndarray:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    mark = clocks()
    for number, batch in enumerate(coming, start=1):
        yield batch
        if number % block:
            continue
        loop, mark = clocks() - mark, clocks()
        for _ in range(block):
            alone()
        own, mark = clocks() - mark, clocks()
        times.append((loop / block, own / block))


def batches(samples: data.Samples, recipe, steps: int, workers: int) -> torch.utils.data.DataLoader:
    order = np.resize(np.arange(len(samples)), steps * recipe.batch_size)
    keys = list(data.batches(0, order, recipe.batch_size, 0))
    return torch.utils.data.DataLoader(
        samples, batch_sampler=keys, num_workers=workers, collate_fn=samples.collate
    )


if __name__ == "__main__":
    main()
