"""Prediction at 1536×512 on the CPU: number formats, channels last, batch norms folded into convolutions,
poses at cars alone, compiled, other runtimes; their mAP.

Speed is that of fresh networks, in turn in one process. OpenVINO and ONNX Runtime (with `onnx`) join in
where installed. With --results (a finished run's folder) formats, folding and OpenVINO also predict
a fold of every model, and the metric says what each costs.

    python -m benchmarks.prediction --results results/demo
"""

import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks import measure
from carpose.config.recipe import Recipe
from carpose.config.sections import Predict
from carpose.data.samples import network_input
from carpose.metric.score import evaluate
from carpose.network.checkpoint import build, load_checkpoint
from carpose.predict.cars import predict_cars
from carpose.predict.networks import forward, placed
from carpose.predict.openvino import Network
from models.predictor import Predictor

CPU = torch.device("cpu")


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def onnx_session(model, recipe):
    """ONNX Runtime's function: contiguous inputs (B, C, H, W) → list of maps; one thread."""
    import onnxruntime

    example = torch.zeros(1, 4 if recipe.mask_channel else 3, recipe.input_height, recipe.input_width)
    last = torch.nn.Sequential(model, Last())
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            last,
            (example,),
            file,
            input_names=["inputs"],
            dynamic_axes={"inputs": {0: "batch"}},
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"inputs": inputs.contiguous().numpy()})


class Last(torch.nn.Module):
    """The last stack's maps, as a tuple."""

    def forward(self, outputs):
        return tuple(outputs[-1].values())


def runtimes(model, recipe) -> dict:
    """Name → function as in `variants`, of those other runtimes that are installed."""
    found = {}
    if installed("openvino"):
        for precision, name in (("f32", "float32"), ("bf16", "bf16")):
            found[f"OpenVINO, {name}"] = seen_by(Network(model, recipe, precision), recipe)
    if installed("onnx", "onnxruntime"):
        session = onnx_session(model, recipe)
        found["ONNX Runtime, float32, all maps"] = lambda pictures: session(
            network_input(pictures, CPU, recipe)
        )
    return found


def seen_by(network: Predictor, recipe: Recipe) -> Callable:
    """What a prediction computes: the heat map, and the poses at 30 cars per photo, nine cells each."""

    def look(pictures):
        cells = torch.arange(9 * 30 * len(pictures)) * 181  # spread over the maps
        return forward(network, pictures, recipe, CPU).poses(cells)

    return look


def variants(recipe, compiled: bool) -> dict:
    """Name → function that predicts the batch it is given."""
    model = build(recipe).eval()
    plain = build(recipe).eval().to(memory_format=torch.contiguous_format)
    folded = placed(model, recipe, CPU)

    def run(network, dtype, last):
        @torch.inference_mode()
        def all_maps(pictures):
            inputs = network_input(pictures, CPU, recipe)
            if not last:
                inputs = inputs.contiguous()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                return network(inputs)

        return all_maps

    result = {
        "float32": run(plain, None, False),
        "float32, channels last": run(model, None, True),
        "bf16": run(plain, torch.bfloat16, False),
        "bf16, channels last": run(model, torch.bfloat16, True),
        "float32, channels last, folded": run(folded.network, None, True),
        "bf16, channels last, folded": run(folded.network, torch.bfloat16, True),
        "float32, channels last, folded, poses at cars": seen_by(folded, replace(recipe, amp="off")),
        "bf16, channels last, folded, poses at cars": seen_by(folded, replace(recipe, amp="bf16")),
    }
    result.update(runtimes(model, recipe))
    if compiled:
        result["float32, compiled"] = run(torch.compile(model), None, True)
        result["bf16, channels last, compiled"] = run(torch.compile(model), torch.bfloat16, True)
    return result


def accuracy(results: Path) -> dict:
    """mAP of each model's fold 0 by number format, and of OpenVINO where it is installed."""
    folds = pd.read_parquet(results / "data" / "folds.parquet")
    labels = pd.read_parquet(results / "data" / "labels.parquet")
    image_ids = folds.ImageId[folds.fold == 0].tolist()
    figures = {}
    for path in sorted(results.glob("round0/*/fold0/model.pt")):
        model, recipe, _ = load_checkpoint(path)
        folded = placed(model, recipe, CPU)
        networks = {
            f"{amp}{name}": (network, replace(recipe, amp=amp))
            for name, network in (("", Predictor(model)), (", folded", folded))
            for amp in ("off", "bf16")
        }
        if installed("openvino"):
            networks["OpenVINO"] = (Network(model, recipe), recipe)
        values = {}
        for name, (network, amp) in networks.items():
            table, _ = predict_cars([network], amp, results / "cache", image_ids, CPU, Predict())
            values[name] = round(evaluate(labels, table, image_ids)["mAP"], 5)
        others = [name for name in values if name != "off"]
        differences = {f"{name} less off": round(values[name] - values["off"], 5) for name in others}
        figures[path.parts[-3]] = {**values, **differences}
    return figures


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--compile", action="store_true", help="compiled variants too: minutes, needs a compiler"
    )
    parser.add_argument("--results", type=Path, help="folder of a finished run, for the mAP")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = torch.randint(0, 255, (args.batch_size, 512, 1536, 4), dtype=torch.uint8)
    figures = {}
    missing = [name for name in ("openvino", "onnx", "onnxruntime") if not installed(name)]
    if missing:
        figures["not installed, left out"] = missing
    for name in args.models:
        recipe = measure.recipe(name, input_width=1536, input_height=512)
        functions, first = {}, {}
        for variant, function in variants(recipe, args.compile).items():
            start = time.perf_counter()
            function(pictures)
            first[variant] = time.perf_counter() - start
            functions[variant] = lambda function=function: function(pictures)
        times = measure.alternately(functions, args.repeats)
        figures[name] = {
            f"{variant}, ms per photo": round(1e3 * value / args.batch_size, 1)
            for variant, value in times.items()
        }
        figures[name]["first call, s"] = {variant: round(value, 1) for variant, value in first.items()}
    if args.results:
        figures["mAP of fold 0"] = accuracy(args.results)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
