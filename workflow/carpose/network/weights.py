"""Fetch a backbone's published weights from the hub, once, into a file.

Compute nodes of clusters often have no internet; the node where Snakemake runs has.
"""

import argparse
from pathlib import Path

from safetensors.torch import save_file

from models.pretrained import from_hub

from .files import atomic, run_main


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m carpose.weights", description=__doc__)
    parser.add_argument("--backbone", required=True, help="a backbone's name in a recipe")
    parser.add_argument("--width", type=float, default=1.0, help="the hub has weights of width 1")
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    args = parser.parse_args()
    weights = from_hub(args.backbone, args.width)
    with atomic(args.output) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)


if __name__ == "__main__":
    run_main(main)
