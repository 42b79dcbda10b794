"""Prediction on the CPU: what folded batch norms, poses at cars alone and OpenVINO bring; their mAP.

Speed is that of fresh networks at 1536×512, in turn in one process. With --results (a finished run's folder)
torch and OpenVINO, where it is installed, also predict a fold of every model, and the metric says what each
costs.

    python -m benchmarks.prediction --results results/demo
"""

import functools
import importlib.util
from pathlib import Path

import torch

from benchmarks import measure
from carpose.config.sections import Predict
from carpose.core import cars, parquet
from carpose.data.samples import network_input
from carpose.metric.score import evaluate
from carpose.network.checkpoint import build, load_checkpoint
from carpose.predict.cars import predict_cars
from carpose.predict.networks import forward, placed

CPU = torch.device("cpu")
RUNTIMES = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


def speed(recipe, pictures: torch.Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds per photo of all maps by the network as it was trained, and of what a prediction computes:
    the heat map and the poses at 30 cars per photo, nine cells each, by each runtime."""
    model = build(recipe).eval()
    cells = torch.arange(9 * 30 * len(pictures)) * 181  # spread over the maps

    @torch.inference_mode()
    def all_maps() -> None:
        model(network_input(pictures, CPU, recipe))

    def predicted(network) -> None:
        forward(network, pictures, recipe, CPU).poses(cells)

    networks = {runtime: placed(model, recipe, CPU, runtime) for runtime in RUNTIMES}
    functions = {runtime: functools.partial(predicted, network) for runtime, network in networks.items()}
    times = measure.alternately({"all maps, as trained": all_maps, **functions}, repeats)
    return {name: round(1e3 * value / len(pictures), 1) for name, value in times.items()}


def accuracy(results: Path) -> dict:
    """mAP of each model's fold 0 by runtime."""
    folds, labels = (
        parquet.read_folds(results / "data/folds.parquet"),
        cars.read(results / "data/labels.parquet"),
    )
    image_ids = folds.ImageId[folds.fold == 0].tolist()
    figures = {}
    for path in sorted(results.glob("round0/*/fold0/model.pt")):
        model, recipe, _ = load_checkpoint(path)
        for runtime in RUNTIMES:
            network = placed(model, recipe, CPU, runtime)
            found, _ = predict_cars([network], recipe, results / "cache", image_ids, CPU, Predict())
            figures[f"{path.parts[-3]}, {runtime}"] = round(evaluate(labels, found, image_ids)["mAP"], 5)
    return figures


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder of a finished run, for the mAP")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = torch.randint(0, 255, (args.batch_size, 512, 1536, 4), dtype=torch.uint8)
    figures = {}
    for name in args.models:
        recipe = measure.recipe(name, input_width=1536, input_height=512)
        figures[f"{name}, ms per photo"] = speed(recipe, pictures, args.repeats)
    if args.results:
        figures["mAP of fold 0"] = accuracy(args.results)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
