"""The whole training loop against its bare network (forward, backward, step on one constant batch).

The loop is carpose.train's own: loader, augmentation, targets, losses, moving average, logging. A step of the
one and a step of the other run in turn (on a GPU, which is to be kept busy, fifty of each), so that a machine
that is now fast, now slow is so to both. Out: milliseconds per step, by the wall clock and on this process's
processor. On a GPU both are CUDA graphs.

    python -m benchmarks.training --workers 1
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure
from carpose.config.train_config import TrainConfig
from carpose.data.loader import stream
from carpose.data.samples import Samples, network_input
from carpose.geometry import camera
from carpose.network import graphs
from carpose.network.device import set_deterministic
from carpose.train.loop import train_epoch
from carpose.train.state import Saver
from carpose.train.step import Training


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
    args = parser.parse_args()
    train_config = measure.train_config(args.model, args.config, pretrained="none")
    torch.set_num_threads(train_config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = 1
    if device.type == "cuda":
        set_deterministic()  # as a training is
        block = 50
    if args.steps % block:
        parser.error(f"--steps: a multiple of {block}")
    with tempfile.TemporaryDirectory() as folder:
        samples = made_up_samples(Path(folder), train_config)
        times = timed(samples, device, args.steps, args.repeats + 1, args.workers, block)
    figures = {"model": args.model, "config": args.config, "workers": args.workers, "device": device.type}
    # (epochs, blocks, loop or network, clock); the first epoch warms up.
    times = 1e3 * np.array(times).reshape(args.repeats + 1, args.steps // block, 2, 2)[1:]
    for index, clock in enumerate(("wall", "processor")):
        loop, network = times[..., 0, index], times[..., 1, index]
        figures[clock] = {
            "loop, median ms per step": round(float(np.median(loop)), 2),
            "network, median ms per step": round(float(np.median(network)), 2),
            "network / loop, medians": round(float(np.median(network) / np.median(loop)), 3),
            "network / loop, all steps": round(float(network.sum() / loop.sum()), 3),
        }
    measure.finish(args.output, figures)


def timed(
    samples: Samples, device: torch.device, steps: int, epochs: int, workers: int, block: int
) -> list[tuple]:
    """The times of `in_turn` in so many epochs of so many steps."""
    train_config = samples.train_config
    training, alone = Training(train_config, None, device), Training(train_config, None, device)
    alone.model.train()
    pictures, targets, _ = samples.collate(
        [samples[0, place, place] for place in range(train_config.batch_size)]
    )
    bare = Bare(
        alone, network_input(pictures, device, train_config), torch.as_tensor(targets["cell"]).to(device)
    )
    # The stream ends after so many times all photos, whatever the loop takes for an epoch.
    passes = range(1 + epochs * steps * train_config.batch_size // len(samples))
    fixed_shape = training.recorded is not None
    batches = stream(samples, passes, 0, device, workers=workers, fixed_shape=fixed_shape)
    times: list[tuple] = []
    turns = in_turn(batches, bare, device, times, block)
    saver = Saver(samples.cache_folder / "state.pt", "", 1e9, print)
    for _ in range(epochs):
        training.progress.batch = 0
        train_epoch(training, turns, steps, lambda step: 1e-3, saver)
    next(turns)  # the last step's end
    return times


def made_up_samples(folder: Path, train_config: TrainConfig) -> Samples:
    """64 photos of noise with eight cars each."""
    left, top, right, bottom = train_config.crop
    # Two network pixels per cache pixel at most, as in the demo.
    scale = min(train_config.input_width / camera.PHOTO_SIZE[0] * 1.1, 1.0)
    image_ids = measure.made_up_cache(folder, 64, [left, top - 0.06, right, bottom + 0.05], scale)
    return Samples(folder, image_ids, measure.made_up_cars(image_ids, 8), train_config)


def in_turn(
    batches: Iterator, alone: Callable[[], None], device: torch.device, times: list, block: int
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
    for number, batch in enumerate(batches, start=1):
        yield batch
        if number % block:
            continue
        loop, mark = clocks() - mark, clocks()
        for _ in range(block):
            alone()
        network, mark = clocks() - mark, clocks()
        times.append((loop / block, network / block))


if __name__ == "__main__":
    main()
