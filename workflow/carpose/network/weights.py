"""Download a backbone's published weights from the hub, once, into a file.

Compute nodes of clusters often have no internet access; the node where Snakemake runs has.
"""

from pathlib import Path

from safetensors.torch import save_file

from carpose.config.options import add_options, from_options
from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.core.files import atomic, run_main
from carpose.core.options import program
from carpose.registry.backbones import published_name
from models.pretrained import from_hub

KEYS = ("backbone", "width")


def main() -> int:
    parser = program("carpose.network.weights", __doc__)
    add_options(parser, TrainConfig, KEYS)
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    args = parser.parse_args()
    train_config = from_options(args, TrainConfig, KEYS)
    try:
        state_dict = from_hub(published_name(train_config.backbone, train_config.width))
    except ValueError as error:
        raise UserError(str(error)) from error
    with atomic(args.output) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, temporary)
    return 0


if __name__ == "__main__":
    run_main(main)
