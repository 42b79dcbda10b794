"""Prediction on the CPU: what folded batch norms, poses at cars alone and OpenVINO (where installed) bring.

Speed is that of fresh networks at 1536×512, in turn in one process.

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


def speed(train_config, pictures: torch.Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds per photo of all maps by the network as it was trained, and of what a prediction computes:
    the heat map and the poses at 30 cars per photo, nine cells each, by each runtime."""
    model = build(train_config).eval()
    cells = torch.arange(9 * 30 * len(pictures)) * 181  # spread over the maps

    @torch.inference_mode()
    def all_maps() -> None:
        model(network_input(pictures, CPU, train_config))

    def predicted(network) -> None:
        forward(network, pictures, train_config, CPU).poses(cells)

    networks = {runtime: prepare_for_inference(model, train_config, CPU, runtime) for runtime in RUNTIMES}
    functions = {runtime: functools.partial(predicted, network) for runtime, network in networks.items()}
    times = measure.alternately({"all maps, as trained": all_maps, **functions}, repeats)
    return {name: round(1e3 * value / len(pictures), 1) for name, value in times.items()}


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = torch.randint(0, 255, (args.batch_size, 512, 1536, 4), dtype=torch.uint8)
    figures = {}
    for name in args.models:
        train_config = measure.train_config(name, input_width=1536, input_height=512)
        figures[f"{name}, ms per photo"] = speed(train_config, pictures, args.repeats)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
