"""One self-contained HTML page about a finished run: report.html.

In: the folder of a run and the data it used. Out: the page, which needs no other file and no network.
"""

import json
from pathlib import Path

from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main, write_text
from carpose.core.options import program, whole
from carpose.geometry import camera
from carpose.kaggle.read import read_truth

from .gallery import make_photos, read_shapes
from .page import render
from .run import read_run


def main() -> None:
    parser = program("carpose.report", __doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run, such as results/demo")
    parser.add_argument("--data", type=Path, required=True, help="folder of the competition's layout")
    parser.add_argument("--truth", type=Path, help="true cars of the test photos, CSV or Parquet")
    parser.add_argument("--config", help="the run's configuration as JSON, to show what is not the default")
    parser.add_argument("--photos", type=whole(1), default=12, help="photos in each of the two galleries")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    args = parser.parse_args()
    check_outputs(args.output)
    try:
        config = json.loads(args.config) if args.config else {}
    except ValueError as error:
        raise UserError(f"--config: not JSON ({error})") from None
    run = read_run(args.run)
    intrinsics = camera.read_intrinsics(camera.intrinsics_file(args.data))
    shapes = read_shapes(args.data, run.labels)
    test_ids = run.images.loc[(run.images["split"] == "test") & (run.images["excluded"] == ""), "ImageId"]
    truth = read_truth(args.truth) if args.truth else None

    def photos(split, image_ids, predicted, true_cars):
        def file(image_id):
            return args.data / f"{split}_images" / f"{image_id}.jpg"

        return make_photos(file, list(image_ids), predicted, true_cars, intrinsics, shapes, args.photos)

    test_photos = photos("test", test_ids, run.fused_test, truth)
    oof_photos = photos("train", run.folds["ImageId"], run.fused_oof, run.labels)
    write_text(args.output, render(run, config, test_photos, oof_photos))
    size = args.output.stat().st_size / 1e6
    print(f"{args.output}: {size:.1f} MB, open it in a browser")


if __name__ == "__main__":
    run_main(main)
