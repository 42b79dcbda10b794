"""Fusion of 30 tables of 2021 images against loops over pairs of cars.

python -m benchmarks.fusion
"""

import time

import numpy as np

from benchmarks import baselines, fusion_views, measure
from carpose import fuse


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2021)
    parser.add_argument("--tables", type=int, default=30)
    parser.add_argument("--cars", type=int, default=11, help="per image")
    parser.add_argument(
        "--looped", type=int, default=20, help="images that the loops do; the rest is inferred"
    )
    args = parser.parse_args()
    image_ids = [f"photo{number:06d}" for number in range(args.images)]
    truth = measure.made_up_cars(image_ids, args.cars)
    rng = np.random.default_rng(0)
    views = {str(number): fusion_views.noisy_view(truth, rng) for number in range(args.tables)}
    some = image_ids[: args.looped]
    few = [view[view["ImageId"].isin(some)] for view in views.values()]
    start = time.process_time()
    baselines.fuse(few, some)
    slow = (time.process_time() - start) * args.images / args.looped
    fast = measure.alternately({"": lambda: fuse.fuse(views)}, 2)[""]
    measure.finish(
        args,
        {
            "images, tables, cars": [args.images, args.tables, sum(map(len, views.values()))],
            "loops s": round(slow, 1),
            "ours s": round(fast, 2),
            "times faster": round(slow / fast, 1),
        },
    )


if __name__ == "__main__":
    main()
