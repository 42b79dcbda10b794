"""What the stages around the network cost as the work grows: photos, cars per photo, models, folds, rounds.

Each is measured at four sizes; out: seconds, the exponent p of time ~ size^p between the two largest sizes,
and with --plot a picture.

    python -m benchmarks.growth --plot docs/growth.png
"""

import math
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import measure, roofline
from benchmarks.workflow import plan
from carpose.data.samples import Samples
from carpose.fuse.combine import fuse
from carpose.metric.score import evaluate
from tests.helpers import noisy_view


def of_tables(images: int, cars: int, tables: int) -> dict[str, float]:
    """Seconds of the metric of one noisy table and of the fusion of all."""
    truth = measure.made_up_cars([f"photo{number:06d}" for number in range(images)], cars)
    rng = np.random.default_rng(0)
    views = {str(number): noisy_view(truth, rng) for number in range(tables)}
    functions = {
        "metric": lambda: evaluate(truth, views["0"]),
        "fusion": lambda: fuse(views),
    }
    return measure.alternately(functions, 3)


def of_targets(cars: int) -> dict[str, float]:
    """Seconds of the targets of 8 photos at 1536×512."""
    recipe = measure.recipe("hourglass", input_width=1536, input_height=512)
    return measure.alternately({"targets": roofline.encoder(recipe, 8, cars)}, 10)


def of_samples(images: int) -> dict[str, float]:
    """Seconds until the first sample of a training: what its labels and its cache take to open."""
    with tempfile.TemporaryDirectory() as folder:
        image_ids = measure.made_up_cache(Path(folder), images, [0.0, 0.5, 1.0, 0.92], 0.05, written=1)
        cars = measure.made_up_cars(image_ids, 8)
        recipe = measure.recipe("hourglass")

        def first():
            return Samples(Path(folder), image_ids, cars, recipe)[0, 0, 0]

        return measure.alternately({"first sample": first}, 3)


STUDIES = {
    "photos": ([500, 1000, 2000, 4000], lambda n: {**of_tables(n, 8, 6), **of_samples(n)}),
    "cars per photo": ([5, 10, 20, 40], lambda n: {**of_tables(500, n, 6), **of_targets(n)}),
    "models": ([3, 6, 12, 24], lambda n: {"fusion": of_tables(500, 8, n)["fusion"]}),
    "folds": ([2, 4, 8, 16], lambda n: {"plan": plan(2, folds=n)["processor s"]}),
    "rounds": ([1, 2, 4, 8], lambda n: {"plan": plan(2, rounds=n)["processor s"]}),
}


def draw(figures: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.8), layout="constrained", dpi=90)
    for axes, (name, lines) in zip(figure.subplots(1, len(figures)), figures.items(), strict=True):
        sizes = STUDIES[name][0]
        for line, values in lines.items():
            axes.loglog(sizes, values["s"], "o-", label=line)
        first = np.exp(np.mean([np.log(values["s"][0]) for values in lines.values()]))
        axes.loglog(sizes, first * np.array(sizes) / sizes[0], ":", color="grey", label="linear")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel(name)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
        axes.legend(fontsize=7, loc="upper left", ncols=2)
    figure.axes[0].set_ylabel("seconds")
    figure.savefig(path)


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="PNG")
    args = parser.parse_args()
    figures = {}
    for name, (sizes, study) in STUDIES.items():
        rows = [study(size) for size in sizes]
        figures[name] = {}
        for line in rows[0]:
            seconds = [row[line] for row in rows]
            exponent = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
            figures[name][line] = {
                "sizes": sizes,
                "s": [round(value, 5) for value in seconds],
                "exponent": round(exponent, 2),
            }
    if args.plot:
        draw(figures, args.plot)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
