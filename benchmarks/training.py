"""The complete training loop against its bare network (forward, backward, step on one constant batch).

The loop is carpose.train's own: loader, augmentation, targets, losses, moving average, logging. A step of the
loop and a step of the bare network run in turn, so that both see the same changes of the machine's speed (on
a GPU fifty of each, to keep it busy). Out: milliseconds per step, of wall time and of this process's CPU
time. On a GPU both are CUDA graphs.

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


class BareNetwork:
    """A callable training step of network and optimiser only: on one constant batch, the loss is the mean
    output.

    inputs: a batch of the network's input; cells: those at which the heads are computed, as in a training.
    """

    def __init__(self, training: Training, inputs: torch.Tensor, cells: torch.Tensor):
        self.training, self.inputs, self.cells = training, inputs, cells
        self.run = graphs.Recorded(self.forward_backward) if training.cuda_graph else self.forward_backward

    def forward_backward(self) -> list[torch.Tensor]:
        """The gradients of the parameters."""
        training = self.training
        for parameter in training.parameters:
            parameter.grad = None
        with torch.autocast(training.device.type, dtype=training.dtype, enabled=training.dtype is not None):
            outputs = training.model(self.inputs, self.cells)
        sum(value.float().mean() for output in outputs for value in output.values()).backward()
        return [parameter.grad for parameter in training.parameters]

    def __call__(self) -> None:
        for parameter, gradient in zip(self.training.parameters, self.run(), strict=True):
            parameter.grad = gradient
        self.training.optimizer.step()


def main() -> None:
    parser = measure.make_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", default="hourglass", help="model of the configuration")
    parser.add_argument(
        "--config", default="config.yaml", help="file laid over config.yaml, as configs/pku.yaml"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--steps", type=int, default=100, help="steps per epoch")
    parser.add_argument("--repeats", type=int, default=5, help="measured epochs, after one for warm-up")
    args = parser.parse_args()
    train_config = measure.train_config(args.model, args.config, pretrained="none")
    torch.set_num_threads(train_config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = 1
    if device.type == "cuda":
        set_deterministic()  # as in a training
        block = 50
    if args.steps % block:
        parser.error(f"--steps: invalid value {args.steps}; it must be a multiple of {block}")
    with tempfile.TemporaryDirectory() as folder:
        samples = made_up_samples(Path(folder), train_config)
        state = Path(folder) / "state.pt"
        times = time_epochs(samples, state, device, args.steps, args.repeats + 1, args.workers, block)
    figures = {"model": args.model, "config": args.config, "workers": args.workers, "device": device.type}
    # (epochs, blocks, loop or network, clock) in ms; without the first epoch, which warms up.
    times = 1e3 * np.array(times).reshape(args.repeats + 1, args.steps // block, 2, 2)[1:]
    for index, clock in enumerate(("wall", "processor")):
        loop, network = times[..., 0, index], times[..., 1, index]
        figures[clock] = {
            "loop, median ms per step": round(float(np.median(loop)), 2),
            "network, median ms per step": round(float(np.median(network)), 2),
            "network / loop, medians": round(float(np.median(network) / np.median(loop)), 3),
            "network / loop, all steps": round(float(network.sum() / loop.sum()), 3),
        }
    measure.write_results(args.output, figures)


def time_epochs(
    samples: Samples, state: Path, device: torch.device, steps: int, epochs: int, workers: int, block: int
) -> list[tuple]:
    """The times of `interleave`, one entry per block of steps. state: file of the training's state."""
    train_config = samples.train_config
    training, bare_training = Training(train_config, None, device), Training(train_config, None, device)
    bare_training.model.train()
    images, targets, _ = samples.collate([samples[0, row, row] for row in range(train_config.batch_size)])
    cells = torch.as_tensor(targets["cell"]).to(device)
    bare_network = BareNetwork(bare_training, network_input(images, device, train_config), cells)
    # Enough passes over the photos for all steps; an epoch here is a number of steps, not a pass.
    data_epochs = range(1 + epochs * steps * train_config.batch_size // len(samples))
    fixed_shape = training.cuda_graph is not None
    batches = stream(samples, data_epochs, 0, device, workers=workers, fixed_shape=fixed_shape)
    times: list[tuple] = []
    interleaved = interleave(batches, bare_network, device, times, block)
    saver = Saver(state, "", 1e9, print)
    for _ in range(epochs):
        training.progress.batch = 0
        train_epoch(training, interleaved, steps, lambda step: 1e-3, saver)
    next(interleaved)  # so that the last block is timed
    return times


def made_up_samples(folder: Path, train_config: TrainConfig) -> Samples:
    """64 photos of noise with eight cars each."""
    left, top, right, bottom = train_config.crop
    # At most two pixels of the network's input per cache pixel, as in the demo.
    scale = min(train_config.input_width / camera.PHOTO_SIZE[0] * 1.1, 1.0)
    image_ids = measure.made_up_cache(folder, 64, [left, top - 0.06, right, bottom + 0.05], scale)
    return Samples(folder, image_ids, measure.made_up_cars(image_ids, 8), train_config)


def interleave(
    batches: Iterator, bare_network: Callable[[], None], device: torch.device, times: list, block: int
) -> Iterator:
    """Yields the batches, and calls bare_network `block` times after each `block` of the loop's steps.

    For each block it appends to `times` two pairs of seconds (wall time, CPU time) per step: of the loop,
    with its waiting for batches, and of bare_network.

    Workers prepare a batch during the steps of both. So where a batch takes them longer than a step of the
    loop, a loop without the bare network would wait for batches more often than is measured here.
    """

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
            bare_network()
        network, mark = clocks() - mark, clocks()
        times.append((loop / block, network / block))


if __name__ == "__main__":
    main()
