"""Export a trained network to OpenVINO, which is faster than torch on a CPU.

In: a checkpoint. Out: the network as an .xml file, and its weights as a .bin file beside it.
Input: `images` (B, H, W, 3 or 4) float32, channels last, H and W as in the training configuration, with the
normalisation of carpose.data.samples: (RGB − mean) / std, mask as 0 … 1. Outputs: the maps by name
(B, channels, H/4, W/4), the heat map as logits. Under `carpose` in the .xml: training configuration, digest,
provenance, mean and std.
`carpose.predict --runtime openvino` does not read this file; it converts the checkpoint itself.
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
from carpose.predict.openvino import convert, import_openvino


class Maps(torch.nn.Module):
    """A network that takes images (B, H, W, C) and returns the maps of the last stack."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network(images.permute(0, 3, 1, 2))[-1]


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint and write output (.xml) and its .bin file, which is moved into place first.

    Raises UserError for another suffix, an invalid checkpoint, or without OpenVINO.
    """
    if output.suffix != ".xml":
        raise UserError(f"--output {output}: invalid value; use a name that ends in .xml")
    runtime = import_openvino()
    model, train_config, provenance = load_checkpoint(checkpoint)
    converted = convert(Maps(model), train_config)
    metadata = {
        "train_config": asdict(train_config),
        "digest": train_config.digest(),
        "provenance": provenance,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
    }
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        converted.set_rt_info(text, ["carpose", key])
    # OpenVINO derives the name of the .bin file; the two temporary names differ in the suffix alone.
    with atomic(output) as graph, atomic(output.with_suffix(".bin")):
        runtime.save_model(converted, graph, compress_to_fp16=False)


def main() -> int:
    parser = program("carpose.export", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of one fold")
    parser.add_argument(
        "--output", type=Path, required=True, help=".xml file to write; a .bin file lies beside it"
    )
    args = parser.parse_args()
    write(args.checkpoint, args.output)
    size = sum(args.output.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(f"{args.output}: {size / 2**20:.1f} MiB including weights")
    return 0


if __name__ == "__main__":
    run_main(main)
