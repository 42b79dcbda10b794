"""Prediction on the CPU: speed-up by folded batch norms, by poses at cars only, and by OpenVINO if installed.

Untrained networks at 1536×512 pixels are timed in turn in one process, on one thread.

    python -m benchmarks.prediction
"""

import functools
import importlib.util

import torch

from benchmarks import measure
from carpose.data.samples import network_input
from carpose.network.checkpoint import build
from carpose.predict.networks import forward, prepare_for_inference

CPU = torch.device("cpu")
RUNTIMES = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


def time_per_photo(train_config, images: torch.Tensor, repeats: int) -> dict[str, float]:
    """CPU milliseconds per photo: of the training network computing all maps, and by runtime of a prediction,
    which computes the heat map and the poses of 30 cars per photo at nine cells each.

    images: (N, H, W, 4) uint8.
    """
    model = build(train_config).eval()
    cells = torch.arange(9 * 30 * len(images)) * 181  # spread over the maps

    @torch.inference_mode()
    def all_maps() -> None:
        model(network_input(images, CPU, train_config))

    def predict(network) -> None:
        forward(network, images, train_config, CPU).outputs_at(cells)

    networks = {runtime: prepare_for_inference(model, train_config, CPU, runtime) for runtime in RUNTIMES}
    functions = {runtime: functools.partial(predict, network) for runtime, network in networks.items()}
    times = measure.alternately({"all maps, training network": all_maps, **functions}, repeats)
    return {name: round(1e3 * seconds / len(images), 1) for name, seconds in times.items()}


def main() -> None:
    parser = measure.make_parser(__doc__.splitlines()[0])
    models = ["efficientnet", "dla34", "hourglass"]
    parser.add_argument("--models", nargs="+", default=models, help="models of config.yaml")
    parser.add_argument("--batch-size", type=int, default=2, help="photos per forward pass")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed forward passes, of which the median counts"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 255, (args.batch_size, 512, 1536, 4), dtype=torch.uint8)
    figures = {}
    for name in args.models:
        train_config = measure.train_config(name, input_width=1536, input_height=512)
        figures[f"{name}, ms per photo"] = time_per_photo(train_config, images, args.repeats)
    measure.write_results(args.output, figures)


if __name__ == "__main__":
    main()
