"""Training and prediction on a GPU: photos per second and memory of each model, size and number format.

A training's steps, losses and all, stand beside the bare network on a constant batch; both as CUDA graphs,
which a CPU does without. Each case is a process of its own; --jobs of them are made ready side by side, which
takes memory for all of them, and measured one after the other.

    python -m benchmarks.gpu --config configs/pku.yaml
"""

import functools
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks import measure
from benchmarks.training import Bare
from carpose.config.train_config import TrainConfig
from carpose.core.cars import ANGLES, POSITION
from carpose.core.errors import UserError
from carpose.core.memory import keep_freed_memory
from carpose.data.samples import network_input
from carpose.geometry import camera, rotation
from carpose.heads.head import STRIDE
from carpose.heads.targets import encode
from carpose.network.device import set_deterministic
from carpose.predict.networks import forward, prepare_for_inference
from carpose.train.step import Training


@functools.cache
def device() -> torch.device:
    """Not when this is imported: a process that has asked cannot be forked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def constant_batch(train_config: TrainConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pictures of noise, and targets of 8 cars each."""
    count, size = train_config.batch_size, (train_config.input_width, train_config.input_height)
    view = camera.crop_and_resize(camera.PHOTO_SIZE, train_config.crop, size)
    intrinsics = camera.cells(STRIDE) @ view @ camera.INTRINSICS
    cars = measure.made_up_cars(["photo"], 8)
    targets = encode(
        np.tile(cars[POSITION].to_numpy(), (count, 1)),
        np.tile(rotation.matrix(cars[ANGLES].to_numpy()), (count, 1, 1)),
        np.ones(count * len(cars)),
        np.stack([intrinsics] * count),
        (size[0] // STRIDE, size[1] // STRIDE),
        camera.focal(intrinsics),
        train_config,
        photo=np.repeat(np.arange(count), len(cars)),
    )
    pictures = torch.randint(0, 255, (count, *size[::-1], 4), dtype=torch.uint8)
    return pictures.to(device()), {name: torch.as_tensor(a).to(device()) for name, a in targets.items()}


def seconds(function: Callable, repeats: int) -> float:
    """Seconds of a call: the median of three rounds of so many, at whose end the device is waited for."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        warm(function, repeats)
        rounds.append((time.perf_counter() - start) / repeats)
    return statistics.median(rounds)


def warm(function: Callable, times: int = 4) -> None:
    """Call it, four times until it is recorded, and wait for the device."""
    for _ in range(times):
        function()
    if device().type == "cuda":
        torch.cuda.synchronize()


def memory_of(function: Callable) -> float | None:
    """GiB that is reserved at most until it is recorded, all that is there included; None without a GPU."""
    if device().type != "cuda":
        warm(function)
        return None
    torch.cuda.empty_cache()  # then what is reserved is of use to nothing else
    torch.cuda.reset_peak_memory_stats()
    warm(function)
    return round(torch.cuda.max_memory_reserved() / 2**30, 2)


def study(train_config: TrainConfig, repeats: int) -> Iterator[dict]:
    """One model at one size in one number format: first all is made ready, then measured."""
    training = Training(train_config, None, device())
    pictures, targets = constant_batch(train_config)
    inputs = network_input(pictures, device(), train_config)
    model = prepare_for_inference(training.model, train_config, device())
    in_flight = []

    def step() -> None:
        """Awaits the step before, as a training does."""
        in_flight.append(training.step(pictures, targets, 1e-4))
        while len(in_flight) > training.max_in_flight:
            in_flight.pop(0)()

    def predict() -> None:
        forward(model, pictures, train_config, device()).poses(targets["cell"])

    def figures(functions: dict[str, Callable]) -> dict[str, float]:
        photos = {name: train_config.batch_size / seconds(call, repeats) for name, call in functions.items()}
        return {f"{name} photos/s": round(value, 1) for name, value in photos.items()} | {
            "training / bare": round(photos["training"] / photos["bare network"], 3)
        }

    bare = Bare(training, inputs, targets["cell"])
    functions = {"training": step, "bare network": bare, "prediction": predict}
    memory = {f"{name} GiB": memory_of(function) for name, function in functions.items()}
    yield {}
    yield figures(functions) | memory


def case(connection, train_config: TrainConfig, repeats: int) -> None:
    """In a process: says when it is ready, and when told to go on, what it has measured."""
    keep_freed_memory()
    torch.set_num_threads(train_config.threads)
    set_deterministic()  # as a training and a prediction are
    try:
        measured = study(train_config, repeats)
        connection.send(next(measured))
        connection.recv()
        connection.send(next(measured))
    except torch.OutOfMemoryError:
        connection.send("does not fit")
    except (RuntimeError, UserError) as error:  # of cuDNN, of a recording: the others go on
        connection.send(f"{type(error).__name__}: {error}"[:300])


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/pku.yaml")
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--sizes", nargs="+", default=["1536x512", "2560x1024"])
    parser.add_argument("--formats", nargs="+", default=["off", "bf16"], help="off is float32")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="cases that are made ready at once")
    args = parser.parse_args()
    processes = multiprocessing.get_context("forkserver")  # torch is imported once
    processes.set_forkserver_preload(["benchmarks.training"])
    figures = {"device": device().type}
    cases = itertools.product(args.sizes, args.models, args.formats)
    while batch := list(itertools.islice(cases, args.jobs)):
        running = {}
        for size, model, amp in batch:
            width, height = map(int, size.split("x"))
            changes = {"input_width": width, "input_height": height, "amp": amp, "pretrained": "none"}
            train_config = measure.train_config(model, args.config, **changes)
            connection, end = processes.Pipe()
            processes.Process(target=case, args=(end, train_config, args.repeats), daemon=True).start()
            end.close()
            running[f"{model} {size} {amp}"] = connection
        ready = {name: connection.recv() for name, connection in running.items()}
        for name, connection in running.items():
            if not ready[name]:
                connection.send("go")
                ready[name] = connection.recv()
            figures[name] = ready[name]
            print(name, figures[name], flush=True)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
