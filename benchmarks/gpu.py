"""Training and prediction on a GPU: each backbone, two sizes, number formats, compiled or not.

Photos per second and memory of training steps, losses and all, beside the bare network on a constant batch,
and both beside the floor of benchmarks.roofline for the peak and the bandwidth that the card is seen to have;
as CUDA graphs, as trainings and predictions are where they can be, and each operation by itself. Without a
GPU it does the same on the CPU, where there are no graphs. Each case is a process of its own; --jobs of them
are made ready side by side, which takes memory for all of them, and measured one after the other.

    python -m benchmarks.gpu --config configs/pku.yaml
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks import measure, roofline
from benchmarks.training import Bare
from carpose.config.recipe import Recipe
from carpose.core.errors import UserError
from carpose.core.memory import keep_freed_memory
from carpose.data.samples import network_input
from carpose.network.device import number_format, repeatable
from carpose.predict.networks import forward, placed
from carpose.train.step import Training


@functools.cache
def device() -> torch.device:
    """Not when this is imported: a process that has asked cannot be forked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(function: Callable, repeats: int) -> float:
    """Seconds of a call: the median of three rounds of so many, at whose end the device is waited for."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        wait()
        rounds.append((time.perf_counter() - start) / repeats)
    return statistics.median(rounds)


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def warm(function: Callable) -> None:
    """Until it is compiled and recorded."""
    for _ in range(4):
        function()
    wait()


def memory_of(function: Callable, *modules: torch.nn.Module) -> float | None:
    """Call it until it is compiled and recorded. GiB that it needs at most, with these weights, which
    are there already; None without a GPU."""
    if device().type != "cuda":
        warm(function)
        return None
    torch.cuda.empty_cache()  # then what is reserved is of use to nothing else
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    warm(function)
    weights = sum(roofline.size(value) for module in modules for value in module.state_dict().values())
    return round((torch.cuda.max_memory_reserved() - before + weights) / 2**30, 2)


def card(dtype: torch.dtype) -> roofline.Card:
    """A large matrix product in this format, float32 as convolutions take it; a large copy."""
    size, count = (8192, 2**30) if device().type == "cuda" else (2048, 2**26)
    a, b = torch.randn(2, size, size, device=device()).to(dtype)
    source, target = torch.rand(2, count // 2, device=device())
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    warm(lambda: a @ b)
    product = seconds(lambda: a @ b, 10)
    torch.backends.cuda.matmul.allow_tf32 = before
    warm(lambda: target.copy_(source))
    copy = seconds(lambda: target.copy_(source), 10)
    return roofline.Card(2 * size**3 / product, 2 * source.numel() * source.element_size() / copy)


def study(recipe: Recipe, compiled: bool, repeats: int) -> Iterator[dict]:
    """One backbone at one size in one number format: first all is made ready, then measured."""
    training = Training(recipe, None, device())
    pictures, targets = roofline.constant_batch(recipe, device())
    inputs = network_input(pictures, device(), recipe)
    model = placed(training.model, recipe, device())
    if compiled:
        training.model.compile()
        getattr(model, "predictor", model).compile()
    in_flight = []

    def step() -> None:
        """Awaits the step before, as a training does."""
        in_flight.append(training.step(pictures, targets, 1e-4))
        while len(in_flight) > training.max_in_flight:
            in_flight.pop(0)()

    def predict() -> None:
        forward(model, pictures, recipe, device()).poses(targets["cell"])

    def photos_per_second() -> dict:
        rates = {
            f"{name} photos/s": recipe.batch_size / seconds(call, repeats) for name, call in functions.items()
        }
        ratio = rates["training photos/s"] / rates["bare network photos/s"]
        return {name: round(value, 1) for name, value in rates.items()} | {"training / bare": round(ratio, 3)}

    functions = {
        "training": step,
        "bare network": Bare(training, inputs, targets["cell"]),
        "prediction": predict,
    }
    memory = {"training GiB": memory_of(step, training.model, training.ema.module)}
    warm(functions["bare network"])
    memory["prediction GiB"] = memory_of(predict, model)
    yield {}
    figures = photos_per_second() | memory
    if device().type == "cuda" and not compiled:
        training.recorded, model = None, model.predictor
        functions["bare network"] = Bare(training, inputs, targets["cell"])
        for function in functions.values():
            warm(function)
        figures |= {f"each by itself, {name}": value for name, value in photos_per_second().items()}
    yield figures


def case(connection, recipe: Recipe, compiled: bool, repeats: int, any_bits: bool) -> None:
    """In a process: says when it is ready, and when told to go on, what it has measured."""
    os.setsid()  # killed with all that a compiler has started
    keep_freed_memory()
    torch.set_num_threads(recipe.threads)
    set_bits(any_bits)
    try:
        measured = study(recipe, compiled, repeats)
        connection.send(next(measured))
        connection.recv()
        connection.send(next(measured))
    except torch.OutOfMemoryError:
        connection.send("does not fit")
    except (RuntimeError, UserError) as error:  # of a compiler, of cuDNN, of a recording: the others go on
        connection.send(f"{type(error).__name__}: {error}"[:300])


def set_bits(any_bits: bool) -> None:
    if any_bits:
        torch.backends.cudnn.benchmark = True
    else:
        repeatable()  # as a training and a prediction are


def received(process, connection, patience: float | None = None):
    """What the process sends; a sentence where it sends nothing."""
    try:
        if connection.poll(patience):
            return connection.recv()
        with contextlib.suppress(ProcessLookupError):  # of one that leads no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        return "not ready in time"
    except EOFError:
        return "its process ended"


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    roofline.add_options(parser)
    parser.add_argument("--formats", nargs="+", default=["off", "bf16"], help="off is float32")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compiled", choices=["too", "no", "only"], default="too", help="by torch.compile")
    parser.add_argument(
        "--any-bits", action="store_true", help="the fastest algorithms, which need not repeat their bits"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cases that are made ready at once")
    parser.add_argument("--patience", type=float, default=1800, help="seconds to make them ready")
    args = parser.parse_args()
    processes = multiprocessing.get_context("forkserver")  # torch is imported once
    processes.set_forkserver_preload(["benchmarks.roofline"])
    set_bits(args.any_bits)
    figures = {"device": device().type}
    cards = {amp: card(number_format(device(), amp) or torch.float32) for amp in args.formats}
    for amp, seen in cards.items():
        figures[f"card, {amp}"] = {"TFLOP/s": round(seen.peak / 1e12, 2), "GB/s": round(seen.bandwidth / 1e9)}
        print(f"card, {amp}", figures[f"card, {amp}"], flush=True)
    if device().type == "cuda":
        torch.cuda.empty_cache()
    recipes = roofline.recipes(args.config, args.models, args.sizes, args.formats, args.batch)
    for compiled in {"too": (False, True), "no": (False,), "only": (True,)}[args.compiled]:
        cases = iter(recipes.items())
        while batch := list(itertools.islice(cases, args.jobs)):
            options = (compiled, args.repeats, args.any_bits)
            for name, measured in run_cases(batch, options, args.patience, processes):
                figures[f"{name} compiled" if compiled else name] = measured
                print(f"{name}{' compiled' * compiled}", measured, flush=True)
                measure.keep(args.output, figures)
    with processes.Pool(min(len(recipes), len(os.sched_getaffinity(0)))) as pool:
        counted = dict(zip(recipes, pool.map(roofline.works, recipes.values()), strict=True))
    add_floors(figures, recipes, counted, cards)
    measure.finish(args.output, figures)


def run_cases(
    batch: list[tuple[str, Recipe]], options: tuple, patience: float, processes
) -> Iterator[tuple[str, dict | str]]:
    """(name, figures or why there are none) of each case: made ready side by side, then measured in turn.

    options: of `case`; patience: seconds to make them ready; processes: of multiprocessing.
    """
    running, start = {}, time.monotonic()
    for name, recipe in batch:
        connection, other = processes.Pipe()
        process = processes.Process(target=case, args=(other, recipe, *options), daemon=True)
        process.start()
        other.close()
        running[name] = process, connection
    ready = {
        name: received(*pair, max(patience - time.monotonic() + start, 0)) for name, pair in running.items()
    }
    for name, (process, connection) in running.items():
        if not ready[name]:
            connection.send("go")
            ready[name] = received(process, connection)
        yield name, ready[name]


def add_floors(
    figures: dict,
    recipes: dict[str, Recipe],
    counted: dict[str, dict[str, roofline.Traffic]],
    cards: dict[str, roofline.Card],
) -> None:
    """Beside what was measured: the floor by arithmetic, and how near it is."""
    for name, recipe in recipes.items():
        for what, traffic in counted[name].items():
            floor = roofline.floor(traffic, cards[recipe.amp], recipe.batch_size)
            figures[f"{name}, {what}, floor"] = floor
            for key in (name, f"{name} compiled"):
                if isinstance(measured := figures.get(key), dict):
                    part = "bare network" if what == "training" else what
                    measured[f"{part} / floor"] = round(measured[f"{part} photos/s"] / floor["photos/s"], 3)


if __name__ == "__main__":
    main()
