"""Training and prediction on a GPU: each backbone, two sizes, number formats, compiled or not.

Photos per second and memory of training steps, losses and all, beside the bare network on a constant batch,
and both beside the card's own peak, measured as one large matrix product.

    python -m benchmarks.gpu --config configs/pku.yaml
"""

import gc
import statistics
import time

import numpy as np
import torch

from benchmarks import measure
from benchmarks.training import bare
from carpose import codec, data, predict, train
from carpose.cars import ANGLES, POSITION
from carpose.device import repeatable
from carpose.rotation import matrix


def seconds(function, device: torch.device, repeats: int) -> float:
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


def matrix_peak(device: torch.device, size: int = 8192) -> float:
    """TFLOP/s of a bf16 matrix product."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: a @ a, device, 10) / 1e12


def constant_batch(recipe, device: torch.device):
    """Pictures of noise, and targets of 8 cars each."""
    size = (recipe.input_width // codec.STRIDE, recipe.input_height // codec.STRIDE)
    view = codec.camera.crop_and_resize(measure.PHOTO, recipe.crop, (recipe.input_width, recipe.input_height))
    intrinsics = codec.camera.cells(codec.STRIDE) @ view @ measure.INTRINSICS
    cars = measure.made_up_cars(["photo"], 8)
    xyz, turn = cars[POSITION].to_numpy(), matrix(cars[ANGLES].to_numpy())
    focal = codec.camera.focal(intrinsics)
    count = recipe.batch_size
    xyz, turn = np.tile(xyz, (count, 1)), np.tile(turn, (count, 1, 1))
    photo = np.repeat(np.arange(count), len(cars))
    intrinsics, weight = np.stack([intrinsics] * count), np.ones(len(xyz))
    targets = codec.encode(xyz, turn, weight, intrinsics, size, focal, recipe, photo=photo)
    shape = (recipe.batch_size, recipe.input_height, recipe.input_width, 4)
    pictures = torch.randint(0, 255, shape, dtype=torch.uint8)
    batch = {name: value.to(device) for name, value in targets.tensors().items()}
    return pictures.to(device), batch


def flops(model: torch.nn.Module, inputs: torch.Tensor, cells: torch.Tensor) -> int:
    """Floating-point operations of a training's forward pass, heads at these cells."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs, cells)
    return counter.get_total_flops()


def study(recipe, device: torch.device, compiled: bool, repeats: int) -> dict:
    """One backbone at one size in one number format."""
    torch._dynamo.reset()  # else a second size is compiled for all sizes
    gc.collect()
    training = train.Training(recipe, False, None, device)
    pictures, targets = constant_batch(recipe, device)
    # Backward is twice the forward.
    work = 3 * flops(training.model, data.network_input(pictures, device, recipe), targets["cell"])
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if compiled:
        training.model.compile()
    step = seconds(lambda: training.step(pictures, targets, 1e-4), device, repeats)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    inputs = data.network_input(pictures, device, recipe)
    network = seconds(lambda: bare(training, inputs, targets["cell"]), device, repeats)
    model = predict.placed(training.model, recipe, device, "torch")
    if compiled:
        model.compile()
    forward = seconds(lambda: predict.forward(model, pictures, recipe, device), device, repeats)
    return {
        "training photos/s": round(recipe.batch_size / step, 1),
        "bare network photos/s": round(recipe.batch_size / network, 1),
        "training / bare": round(network / step, 3),
        "training GiB": round(memory, 2),
        "training TFLOP/s": round(work / step / 1e12, 2),
        "prediction photos/s": round(recipe.batch_size / forward, 1),
    }


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/pku.yaml")
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--sizes", nargs="+", default=["1536x512", "2560x1024"])
    parser.add_argument("--formats", nargs="+", default=["off", "bf16"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled networks")
    parser.add_argument("--any-bits", action="store_true", help="algorithms that need not repeat their bits")
    args = parser.parse_args()
    if not args.any_bits:
        repeatable()  # as a training and a prediction are
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"device": device.type}
    if device.type == "cuda":
        figures["matrix product bf16 TFLOP/s"] = round(matrix_peak(device), 1)
    for model in args.models:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            for amp in args.formats:
                for compiled in (False,) if args.no_compile else (False, True):
                    recipe = measure.recipe(
                        model,
                        args.config,
                        input_width=width,
                        input_height=height,
                        amp=amp,
                        pretrained="none",
                    )
                    name = f"{model} {size} {amp}{' compiled' if compiled else ''}"
                    try:
                        figures[name] = study(recipe, device, compiled, args.repeats)
                    except torch.OutOfMemoryError:
                        figures[name] = "does not fit"
                    print(name, figures[name], flush=True)
    measure.finish(args, figures)


if __name__ == "__main__":
    main()
