"""Trained networks → tables of cars: of all photos of a data set, or of any photos."""

from carpose.core.files import run_main
from carpose.core.options import commands, program

from . import dataset, photos


def main() -> int:
    parser = program("carpose.predict", __doc__)
    add = commands(parser)
    for name, module in {"dataset": dataset, "photos": photos}.items():
        text = (module.__doc__ or "").partition("\n")[0]
        part = add(name, text, module.run)
        part.description = module.__doc__
        module.add_arguments(part)
    args = parser.parse_args()
    return args.action(args)


if __name__ == "__main__":
    run_main(main)
