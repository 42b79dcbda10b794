"""A trained network for OpenVINO, which computes on the CPU what torch does, and faster.

In: a checkpoint. Out: its network as OpenVINO reads it, a file .xml with the weights in a .bin beside it.
Input: `pictures` (B, H, W, 3 or 4) float32, H and W the recipe's, a photo as carpose.data.inputs
gives it ((RGB − mean) / standard deviation; mask 0 … 1), but channels last. Outputs: the maps by name
(B, channels, H/4, W/4), the heat map before its sigmoid. Under `carpose` in the .xml: recipe, digest,
provenance, mean and standard deviation.
`carpose.predict --runtime openvino` reads no such file, it converts the checkpoint by itself.
"""

import argparse
from pathlib import Path

from carpose.core.files import run_main

from .openvino import write


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a fold")
    parser.add_argument(
        "--output", type=Path, required=True, help="output: a file .xml, and a .bin beside it"
    )
    args = parser.parse_args()
    write(args.checkpoint, args.output)
    size = sum(args.output.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(f"{args.output}: {size / 2**20:.1f} MiB with its weights")
    return 0


if __name__ == "__main__":
    run_main(main)
