"""A trained network for OpenVINO, which computes on the CPU what torch does, and faster.

In: a checkpoint. Out: its network as OpenVINO reads it, a file .xml with the weights in a .bin beside it.
Input: `pictures` (B, H, W, 3 or 4) float32, H and W the recipe's, a photo as carpose.data.samples
gives it ((RGB − mean) / standard deviation; mask 0 … 1), but channels last. Outputs: the maps by name
(B, channels, H/4, W/4), the heat map before its sigmoid. Under `carpose` in the .xml: recipe, digest,
provenance, mean and standard deviation.
`carpose.predict --runtime openvino` reads no such file, it converts the checkpoint by itself.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from carpose.core.errors import UserError
from carpose.core.files import atomic, run_main
from carpose.core.options import program
from carpose.data.samples import MEAN, STD
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.openvino import convert, openvino


class Maps(torch.nn.Module):
    """A network that takes pictures (B, H, W, C), as memory holds them, and returns the last maps alone."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network(pictures.permute(0, 3, 1, 2))[-1]


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint; the .xml is moved into place after its .bin. Raises UserError."""
    if output.suffix != ".xml":
        raise UserError(f"--output {output}: OpenVINO's files end in .xml")
    runtime = openvino()
    model, train_config, provenance = load_checkpoint(checkpoint)
    converted = convert(Maps(model), train_config)
    about = {
        "train_config": asdict(train_config),
        "digest": train_config.digest(),
        "provenance": provenance,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
    }
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        converted.set_rt_info(text, ["carpose", key])
    # The temporary names differ in the suffix alone, and by that OpenVINO names the second file.
    with atomic(output) as graph, atomic(output.with_suffix(".bin")):
        runtime.save_model(converted, graph, compress_to_fp16=False)


def main() -> int:
    parser = program("carpose.export", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a fold")
    parser.add_argument("--output", type=Path, required=True, help="a file .xml, and a .bin beside it")
    args = parser.parse_args()
    write(args.checkpoint, args.output)
    size = sum(args.output.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(f"{args.output}: {size / 2**20:.1f} MiB with its weights")
    return 0


if __name__ == "__main__":
    run_main(main)
