"""Prepare photos for training: `cache` decodes, crops and scales each photo once; `folds` divides them."""

import argparse
from pathlib import Path

from carpose.config.options import add_options, from_options
from carpose.config.sections import Cache, Folds
from carpose.core import cars, parquet
from carpose.core.files import run_main
from carpose.core.machine import core_count
from carpose.core.options import commands, int_at_least, program
from carpose.kaggle.read import check_same_photos

from .cache import build
from .folds import make_folds


def main() -> int:
    parser = program("carpose.data", __doc__)
    add = commands(parser)
    cache = add("cache", "build the image cache; an interrupted build resumes where it stopped", make_cache)
    cache.add_argument("--data", type=Path, required=True, help="the competition's folder")
    cache.add_argument("--images", type=Path, required=True, help="images.parquet (carpose.kaggle check)")
    cache.add_argument("--output", type=Path, required=True, help="folder of the cache to write")
    cache.add_argument("--jobs", type=int_at_least(1), default=core_count(), help="number of processes")
    add_options(cache, Cache)
    folds = add("folds", "divide the training photos into folds; near-duplicates share a fold", write_folds)
    folds.add_argument("--images", type=Path, required=True, help="images.parquet (carpose.kaggle check)")
    folds.add_argument("--labels", type=Path, required=True, help="labels.parquet (carpose.kaggle check)")
    folds.add_argument("--output", type=Path, required=True, help="folds.parquet to write")
    add_options(folds, Folds)
    args = parser.parse_args()
    args.action(args)
    return 0


def make_cache(args: argparse.Namespace) -> None:
    settings = from_options(args, Cache)
    images = parquet.read_images(args.images)
    build(args.data, images, args.output, settings.crop, settings.scale, args.jobs)


def write_folds(args: argparse.Namespace) -> None:
    settings = from_options(args, Folds)
    labels, images = cars.read(args.labels), parquet.read_images(args.images)
    check_same_photos(args.labels, labels, images["ImageId"])
    table = make_folds(images, labels, settings.count, settings.seed, settings.hash_distance)
    parquet.write(args.output, table)

    sizes = table["group"].value_counts()
    duplicates, largest = (sizes > 1).sum(), sizes.max()
    print(f"{len(table)} photos, {duplicates} groups of near-duplicates (largest: {largest})")
    car_counts = labels["ImageId"].map(table.set_index("ImageId")["fold"]).value_counts()
    for fold, count in table["fold"].value_counts().sort_index().items():
        print(f"fold {fold}: {count} photos, {car_counts.get(fold, 0)} cars")
    if largest > len(table) / settings.count:
        print(
            "warning: the largest group of near-duplicates is larger than a fold; if its photos do not look "
            f"alike, use a --hash-distance below {settings.hash_distance}"
        )


if __name__ == "__main__":
    run_main(main)
