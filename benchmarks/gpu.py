"""Training and prediction on a GPU: each backbone, two sizes, number formats, compiled or not.

Photos per second and memory of training steps, losses and all, beside the bare network on a constant batch,
and both beside the floor of benchmarks.roofline for the peak and the bandwidth that the card is seen to have.
Without a GPU it does the same on the CPU.

    python -m benchmarks.gpu --config configs/pku.yaml
"""

import gc
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import measure, roofline
from benchmarks.training import bare
from carpose import data, predict, train
from carpose.device import number_format, repeatable
from carpose.recipe import Recipe


def seconds(function: Callable, device: torch.device, repeats: int) -> float:
    """Median seconds of a call, the device's work awaited."""
    times = []
    for turn in range(repeats + 3):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def card(device: torch.device, dtype: torch.dtype) -> roofline.Card:
    """A large matrix product in this format, float32 as convolutions take it; a large copy."""
    size, count = (8192, 2**30) if device.type == "cuda" else (2048, 2**26)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    product = seconds(lambda: a @ b, device, 10)
    torch.backends.cuda.matmul.allow_tf32 = before
    source, target = torch.rand(2, count // 2, device=device)
    copy = seconds(lambda: target.copy_(source), device, 10)
    return roofline.Card(2 * size**3 / product, 2 * source.numel() * source.element_size() / copy)


def study(recipe: Recipe, device: torch.device, compiled: bool, repeats: int) -> dict:
    """One backbone at one size in one number format."""
    torch._dynamo.reset()  # else a second size is compiled for all sizes
    gc.collect()
    training = train.Training(recipe, False, None, device)
    pictures, targets = roofline.constant_batch(recipe, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if compiled:
        training.model.compile()
    step = seconds(lambda: training.step(pictures, targets, 1e-4), device, repeats)
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None
    inputs = data.network_input(pictures, device, recipe)
    network = seconds(lambda: bare(training, inputs, targets["cell"]), device, repeats)
    model = predict.placed(training.model, recipe, device, "torch")
    if compiled:
        model.compile()
    forward = seconds(
        lambda: predict.forward(model, pictures, recipe, device).poses(targets["cell"]), device, repeats
    )
    return {
        "training photos/s": round(recipe.batch_size / step, 1),
        "bare network photos/s": round(recipe.batch_size / network, 1),
        "training / bare": round(network / step, 3),
        "training GiB": memory,
        "prediction photos/s": round(recipe.batch_size / forward, 1),
    }


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    roofline.add_options(parser)
    parser.add_argument("--formats", nargs="+", default=["off", "bf16"], help="off is float32")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled networks")
    parser.add_argument("--any-bits", action="store_true", help="algorithms that need not repeat their bits")
    args = parser.parse_args()
    if not args.any_bits:
        repeatable()  # as a training and a prediction are
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"device": device.type}
    cards = {amp: card(device, number_format(device, amp) or torch.float32) for amp in args.formats}
    for amp, seen in cards.items():
        figures[f"card, {amp}"] = {"TFLOP/s": round(seen.peak / 1e12, 2), "GB/s": round(seen.bandwidth / 1e9)}
        print(f"card, {amp}", figures[f"card, {amp}"], flush=True)
    for name, recipe in roofline.recipes(args):
        floors = {
            f"{what}, floor": roofline.floor(traffic, cards[recipe.amp], recipe.batch_size)
            for what, traffic in roofline.works(recipe).items()
        }
        for compiled in (False,) if args.no_compile else (False, True):
            case = f"{name} compiled" if compiled else name
            try:
                seen = study(recipe, device, compiled, args.repeats)
                for mine, what in (("bare network", "training"), ("prediction", "prediction")):
                    most = floors[f"{what}, floor"]["photos/s"]
                    seen[f"{mine} / floor"] = round(seen[f"{mine} photos/s"] / most, 3)
                figures[case] = seen | floors
            except torch.OutOfMemoryError:
                figures[case] = "does not fit"
            except RuntimeError as error:  # of a compiler or of cuDNN: the other cases go on
                figures[case] = f"{type(error).__name__}: {error}"[:300]
            print(case, figures[case], flush=True)
            measure.keep(args, figures)
    measure.finish(args, figures)


if __name__ == "__main__":
    main()
