"""Training and prediction on a GPU: photos per second and memory of each model, size and number format.

Complete training steps are compared with the bare network on a constant batch (forward, backward, optimiser);
on a GPU both are CUDA graphs. Each case has its own process; --jobs of them are prepared at the same time,
which takes memory for all of them, and measured one after the other.

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
from benchmarks.training import BareNetwork
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
    """A function, since a process that has initialised CUDA cannot be forked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def constant_batch(train_config: TrainConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images of noise, (B, H, W, 4) uint8, and targets with 8 cars on each."""
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
    images = torch.randint(0, 255, (count, *size[::-1], 4), dtype=torch.uint8)
    return images.to(device()), {name: torch.as_tensor(a).to(device()) for name, a in targets.items()}


def seconds_per_call(function: Callable, repeats: int) -> float:
    """Wall time of a call: the median over three series of `repeats` calls and a synchronisation."""
    series = []
    for _ in range(3):
        start = time.perf_counter()
        call_repeatedly(function, repeats)
        series.append((time.perf_counter() - start) / repeats)
    return statistics.median(series)


def call_repeatedly(function: Callable, times: int = 4) -> None:
    """Call it (the default is enough to record a CUDA graph) and wait for the device."""
    for _ in range(times):
        function()
    if device().type == "cuda":
        torch.cuda.synchronize()


def memory_of(function: Callable) -> float | None:
    """Peak of GPU memory in GiB reserved by PyTorch in this process while the function is called until its
    CUDA graph is recorded; None without a GPU."""
    if device().type != "cuda":
        call_repeatedly(function)
        return None
    torch.cuda.empty_cache()  # so that no memory is counted that nothing uses
    torch.cuda.reset_peak_memory_stats()
    call_repeatedly(function)
    return round(torch.cuda.max_memory_reserved() / 2**30, 2)


def measure_case(train_config: TrainConfig, repeats: int) -> Iterator[dict]:
    """Measures one model at one size in one number format. Yields {} when it is prepared, then the
    figures."""
    training = Training(train_config, None, device())
    images, targets = constant_batch(train_config)
    inputs = network_input(images, device(), train_config)
    model = prepare_for_inference(training.model, train_config, device())
    in_flight = []

    def step() -> None:
        """Waits for an earlier step, as a training does."""
        in_flight.append(training.step(images, targets, 1e-4))
        while len(in_flight) > training.max_in_flight:
            in_flight.pop(0)()

    def predict() -> None:
        forward(model, images, train_config, device()).outputs_at(targets["cell"])

    bare_network = BareNetwork(training, inputs, targets["cell"])
    functions = {"training": step, "bare network": bare_network, "prediction": predict}
    memory = {f"{name} GiB": memory_of(function) for name, function in functions.items()}
    yield {}
    rates = {
        name: train_config.batch_size / seconds_per_call(function, repeats)
        for name, function in functions.items()
    }
    figures = {f"{name} photos/s": round(rate, 1) for name, rate in rates.items()}
    figures["training / bare network"] = round(rates["training"] / rates["bare network"], 3)
    yield figures | memory


def run_case(connection, train_config: TrainConfig, repeats: int) -> None:
    """Runs in its own process: sends {} when prepared, waits for a message, then sends the figures. Sends a
    text instead where the case fails."""
    keep_freed_memory()
    torch.set_num_threads(train_config.threads)
    set_deterministic()  # as in a training and a prediction
    try:
        results = measure_case(train_config, repeats)
        connection.send(next(results))
        connection.recv()
        connection.send(next(results))
    except torch.OutOfMemoryError:
        connection.send("out of GPU memory")
    except (RuntimeError, UserError) as error:  # of cuDNN or of recording a graph: other cases go on
        connection.send(f"{type(error).__name__}: {error}"[:300])


def main() -> None:
    parser = measure.make_parser(__doc__.splitlines()[0])
    models, sizes = ["efficientnet", "dla34", "hourglass"], ["1536x512", "2560x1024"]
    parser.add_argument("--config", default="configs/pku.yaml", help="file laid over config.yaml")
    parser.add_argument("--models", nargs="+", default=models, help="models of the configuration")
    parser.add_argument("--sizes", nargs="+", default=sizes, help="width x height of the input in pixels")
    parser.add_argument("--formats", nargs="+", default=["off", "bf16"], help="values of amp; off is float32")
    parser.add_argument(
        "--repeats", type=int, default=20, help="calls per series; the median of three counts"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cases that are prepared at the same time")
    args = parser.parse_args()
    processes = multiprocessing.get_context("forkserver")  # torch is imported once
    processes.set_forkserver_preload(["benchmarks.training"])
    figures = {"device": device().type}
    cases = itertools.product(args.sizes, args.models, args.formats)
    while batch := list(itertools.islice(cases, args.jobs)):
        connections = {}
        for size, model, amp in batch:
            width, height = map(int, size.split("x"))
            changes = {"input_width": width, "input_height": height, "amp": amp, "pretrained": "none"}
            train_config = measure.train_config(model, args.config, **changes)
            connection, child_connection = processes.Pipe()
            arguments = child_connection, train_config, args.repeats
            processes.Process(target=run_case, args=arguments, daemon=True).start()
            child_connection.close()
            connections[f"{model} {size} {amp}"] = connection
        messages = {name: connection.recv() for name, connection in connections.items()}
        for name, connection in connections.items():
            if not messages[name]:  # prepared
                connection.send("go")
                messages[name] = connection.recv()
            figures[name] = messages[name]
            print(name, figures[name], flush=True)
    measure.write_results(args.output, figures)


if __name__ == "__main__":
    main()
