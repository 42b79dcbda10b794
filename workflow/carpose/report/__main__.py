"""One self-contained HTML page about a finished run: report.html.

In: the folder of a run. Out: the page, which needs no other file and no network.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from carpose.core.files import check_outputs, run_main, write_text
from carpose.core.options import int_at_least, program
from carpose.geometry import camera
from carpose.kaggle.read import read_truth

from .gallery import Photo, make_photos, read_car_models
from .page import render
from .run import read_run


def main() -> None:
    parser = program("carpose.report", __doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run, such as results/demo")
    parser.add_argument("--data", type=Path, help="folder of the data, by default the one that the run used")
    parser.add_argument(
        "--photos", type=int_at_least(1), default=12, help="photos in each of the two galleries"
    )
    parser.add_argument("--output", type=Path, help="HTML file to write, by default RUN/report.html")
    args = parser.parse_args()
    output = args.output or args.run / "report.html"
    run = read_run(args.run)
    check_outputs(output)
    data = args.data or run.data
    intrinsics = camera.read_intrinsics(camera.intrinsics_file(data))
    models = read_car_models(data)
    types = run.labels["model_type"].mode() if "model_type" in run.labels else []
    usual_type = int(types[0]) if len(types) else None
    test_ids = run.images.loc[(run.images["split"] == "test") & (run.images["excluded"] == ""), "ImageId"]
    hidden_truth = run.data_run / "demo_truth.csv"
    rendered = not run.config.get("data_root") and hidden_truth.is_file()
    truth = read_truth(hidden_truth) if rendered else None

    def photos(
        split: str, image_ids: Iterable[str], predicted: pd.DataFrame, true_cars: pd.DataFrame | None
    ) -> list[Photo]:
        def file(image_id: str) -> Path:
            return data / f"{split}_images" / f"{image_id}.jpg"

        options = (intrinsics, models, usual_type, args.photos)
        return make_photos(file, list(image_ids), predicted, true_cars, *options)

    test_photos = photos("test", test_ids, run.fused_test, truth)
    oof_photos = photos("train", run.folds["ImageId"], run.fused_oof, run.labels)
    write_text(output, render(run, test_photos, oof_photos))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, open it in a browser")


if __name__ == "__main__":
    run_main(main)
