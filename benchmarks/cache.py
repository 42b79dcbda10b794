"""A sample from the picture cache against decoding the full-size JPEG each time; and building the cache.

python -m benchmarks.cache
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks import measure
from carpose import augment, cache, data

CROP, SCALE = [0.0, 0.45, 1.0, 1.0], 0.5  # of configs/pku.yaml


def make_photos(folder: Path, count: int) -> pd.DataFrame:
    """Photos of the competition's size and about its 0.7 MB, and the table of images."""
    cv2.setNumThreads(1)  # its threads do not survive the fork of the build's processes
    rng = np.random.default_rng(0)
    (folder / "train_images").mkdir(parents=True)
    (folder / "camera").mkdir()
    lines = zip(("fx", "fy", "cx", "cy"), measure.INTRINSICS[[0, 1, 0, 1], [0, 1, 2, 2]], strict=True)
    (folder / "camera" / "camera_intrinsic.txt").write_text("".join(f"{k} = {v}\n" for k, v in lines))
    names = [f"photo{number}" for number in range(count)]
    width, height = measure.PHOTO
    for name in names:
        coarse = rng.integers(0, 255, (height // 64, width // 64, 3), np.uint8)
        photo = cv2.resize(coarse, measure.PHOTO, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "train_images" / f"{name}.jpg"), photo)
    return pd.DataFrame(
        {
            "ImageId": names,
            "split": "train",
            "excluded": "",
            "width": width,
            "height": height,
            "has_mask": False,
        }
    )


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    recipe = measure.recipe("dla34", "configs/pku.yaml", pretrained="none")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images = make_photos(folder / "data", args.photos)
        megabytes = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / args.photos / 1e6
        start = time.perf_counter()
        cache.build(folder / "data", images, folder / "cache", CROP, SCALE, args.jobs)
        build = time.perf_counter() - start
        photos = data.Photos(folder / "cache", images.ImageId.tolist(), recipe)
        photos.open()
        turn = iter(np.resize(np.arange(args.photos), 10**6).tolist())

        def decode():
            picture = cv2.imread(str(folder / "data" / "train_images" / f"photo{next(turn)}.jpg"))
            homography = augment.Placement(np.eye(3), photos.view.matrix).homography(measure.INTRINSICS)
            return augment.warp(picture, homography, photos.view.size)

        functions = {
            "decode": decode,
            "sample": lambda: photos[next(turn)],
            "read": lambda: photos.cache.photos[next(turn)].copy(),
        }
        times = measure.alternately(functions, 20)
        size = photos.cache.photos.nbytes / args.photos / 1e6
    measure.finish(
        args,
        {
            "MB per JPEG, MB per cached photo": [round(megabytes, 2), round(size, 2)],
            "decode and warp, ms per photo": round(1e3 * times["decode"], 2),
            "sample from the cache (read and warp), ms": round(1e3 * times["sample"], 2),
            "read from the cache alone, ms": round(1e3 * times["read"], 2),
            "times faster": round(times["decode"] / times["sample"], 1),
            "build, photos per second": round(args.photos / build, 1),
            "build of 6283 photos, minutes": round(6283 * build / args.photos / 60, 1),
        },
    )


if __name__ == "__main__":
    main()
