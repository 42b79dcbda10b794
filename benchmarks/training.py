"""The whole training loop against its bare network (forward, backward, step on one constant batch).

The loop is carpose.train's own: loader, augmentation, targets, losses, moving average, logging. Both run in
turn in this process. Out: milliseconds per step, by the wall clock and on this process's processor.

    python -m benchmarks.training --workers 1
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import measure
from carpose import data, losses, train


def bare(training: train.Training, pictures: torch.Tensor, cells: torch.Tensor) -> None:
    """One step of nothing but network and optimiser, heads at the same cells as in the training."""
    training.model.train()
    with torch.autocast(training.device.type, dtype=training.dtype, enabled=training.dtype is not None):
        outputs = training.model(pictures, cells)
    training.optimizer.zero_grad(set_to_none=True)
    sum(value.float().mean() for output in outputs for value in output.values()).backward()
    training.optimizer.step()


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--model", default="hourglass", help="of the configuration")
    parser.add_argument("--config", default="config.yaml", help="or one of configs/*.yaml")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--steps", type=int, default=100, help="steps of one epoch")
    parser.add_argument("--repeats", type=int, default=5, help="epochs, and as many blocks of bare steps")
    parser.add_argument("--cars", type=int, default=8, help="cars per photo")
    args = parser.parse_args()
    recipe = measure.recipe(args.model, args.config)
    torch.set_num_threads(recipe.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        left, top, right, bottom = recipe.crop
        # Two network pixels per cache pixel at most, as in the demo.
        scale = min(recipe.input_width / measure.PHOTO[0] * 1.1, 1.0)
        image_ids = measure.made_up_cache(folder, 64, [left, top - 0.06, right, bottom + 0.05], scale)
        cars = measure.made_up_cars(image_ids, args.cars)
        samples = data.Samples(folder, image_ids, cars, recipe)
        training = train.Training(recipe, False, None, device)
        alone = train.Training(recipe, False, None, device)
        batch = next(iter(batches(samples, recipe, 1, 0)))
        pictures = data.network_input(batch[0], device, recipe)
        cells = torch.as_tensor(batch[1]["cell"]).to(device)
        running = SimpleNamespace(workers=args.workers, save_minutes=1e9, name="benchmark", state=None)
        stop = SimpleNamespace(raised=False)
        order = np.resize(np.arange(len(image_ids)), args.steps * recipe.batch_size)

        def loop():
            training.progress = train.Progress(weights=losses.weights(recipe))
            train.run_epoch(running, training, samples, order, lambda step: 1e-3, stop, "")

        def network():
            for _ in range(args.steps):
                bare(alone, pictures, cells)
            if device.type == "cuda":
                torch.cuda.synchronize()

        times = {"loop": [], "network": []}
        for turn, (name, function) in itertools.product(
            range(args.repeats + 1), [("loop", loop), ("network", network)]
        ):
            wall, processor = time.perf_counter(), time.process_time()
            function()
            if turn:  # the first warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    figures = {"model": args.model, "config": args.config, "workers": args.workers, "device": device.type}
    for index, clock in enumerate(("wall", "processor")):
        ms = {name: [1e3 * pair[index] / args.steps for pair in pairs] for name, pairs in times.items()}
        figures[clock] = {f"{name} ms per step": round(statistics.median(v), 2) for name, v in ms.items()}
        ratios = [network / loop for network, loop in zip(ms["network"], ms["loop"], strict=True)]
        figures[clock]["network / loop"] = round(statistics.median(ratios), 3)
        figures[clock]["network / loop, fastest of each"] = round(min(ms["network"]) / min(ms["loop"]), 3)
    measure.finish(args, figures)


def batches(samples: data.Samples, recipe, steps: int, workers: int) -> torch.utils.data.DataLoader:
    order = np.resize(np.arange(len(samples)), steps * recipe.batch_size)
    keys = list(data.batches(0, order, recipe.batch_size, 0))
    return torch.utils.data.DataLoader(
        samples, batch_sampler=keys, num_workers=workers, collate_fn=samples.collate
    )


if __name__ == "__main__":
    main()
