"""Metric and fusion against the loops that define them (tests/reference.py).

The metric: real labels and predictions, against the literal loop of the competition's public script. The
fusion: 30 tables of 2021 photos, against loops over pairs of cars, which do some of the photos.

    python -m benchmarks.loops --real ../shared/real
"""

import time
from pathlib import Path

import numpy as np

from benchmarks import measure
from carpose.fuse.combine import fuse
from carpose.kaggle.tables import read_labels, read_submission
from carpose.metric.score import evaluate
from tests import reference
from tests.helpers import noisy_view


def of_metric(folder: Path) -> dict:
    truth, _ = read_labels(folder / "train.csv")
    predictions, images = read_submission(folder / "val_predictions.csv")
    truth = truth[truth["ImageId"].isin(images)]
    start = time.process_time()
    ap, _ = reference.metric(truth, predictions, images)
    slow = time.process_time() - start
    ours = evaluate(truth, predictions, images)
    fast = measure.alternately({"": lambda: evaluate(truth, predictions, images)}, 30)[""]
    return {
        "images, predictions, cars": [len(images), len(predictions), len(truth)],
        "loop s": round(slow, 2),
        "ours ms": round(1e3 * fast, 1),
        "times faster": round(slow / fast),
        "greatest difference of an AP": float(np.abs(np.array(ap) - ours["AP"]).max()),
    }


def of_fusion(images: int, tables: int, cars: int, looped: int) -> dict:
    image_ids = [f"photo{number:06d}" for number in range(images)]
    truth, rng = measure.made_up_cars(image_ids, cars), np.random.default_rng(0)
    views = {str(number): noisy_view(truth, rng) for number in range(tables)}
    few = [view[view["ImageId"].isin(image_ids[:looped])] for view in views.values()]
    start = time.process_time()
    reference.fuse(few, image_ids[:looped])
    slow = (time.process_time() - start) * images / looped
    fast = measure.alternately({"": lambda: fuse(views)}, 2)[""]
    return {
        "images, tables, cars": [images, tables, sum(map(len, views.values()))],
        "loops s": round(slow, 1),
        "ours s": round(fast, 2),
        "times faster": round(slow / fast, 1),
    }


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder with train.csv and val_predictions.csv")
    parser.add_argument("--images", type=int, default=2021)
    parser.add_argument("--tables", type=int, default=30)
    parser.add_argument("--cars", type=int, default=11, help="per image")
    parser.add_argument("--looped", type=int, default=20, help="images that the loops do, for all of them")
    args = parser.parse_args()
    figures = {"metric": of_metric(args.real)} if args.real else {}
    figures["fusion"] = of_fusion(args.images, args.tables, args.cars, args.looped)
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
