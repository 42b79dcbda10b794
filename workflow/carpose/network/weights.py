"""Fetch a backbone's published weights from the hub, once, into a file.

Compute nodes of clusters often have no internet; the node where Snakemake runs has.
"""

from pathlib import Path

from safetensors.torch import save_file

from carpose.core.errors import UserError
from carpose.core.files import atomic, run_main
from carpose.core.options import program
from carpose.registry.backbones import published_name
from models.pretrained import from_hub


def main() -> None:
    parser = program("carpose.network.weights", __doc__)
    parser.add_argument("--backbone", required=True, help="a backbone's name in a recipe")
    parser.add_argument("--width", type=float, default=1.0, help="the hub has weights of width 1")
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    args = parser.parse_args()
    try:
        weights = from_hub(published_name(args.backbone, args.width))
    except ValueError as error:
        raise UserError(str(error)) from error
    with atomic(args.output) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)


if __name__ == "__main__":
    run_main(main)
