"""Write two submissions, of all fused cars and of those above the threshold; print which scoring each is for.

In: the fused cars of the test photos, fusion.json, images.parquet. Out: two validated CSV files.
"""

from pathlib import Path

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.core.options import program
from carpose.kaggle.read import read_test_images
from carpose.kaggle.submission import print_validation, write_submission

from .fitted import Fit, read_fit

FILES = {"all": "every car, with its confidence", "thresholded": "the cars above the threshold"}
UNTRAINED = 0.01  # mAP below which hardly a car was found; two epochs of the demo's small networks give .09
MODES = {
    "given": "a scoring that ranks cars by confidence",
    "leaderboard": "the leaderboard, which ignores confidences",
}


def main() -> int:
    parser = program("carpose.fuse.write", __doc__)
    parser.add_argument("cars", type=Path, help="Parquet table of carpose.fuse")
    parser.add_argument("--fit", required=True, help="fusion.json of carpose.fuse.fit")
    parser.add_argument(
        "--images", required=True, help="images.parquet of the check: the photos and their order"
    )
    parser.add_argument("--all-output", type=Path, required=True, help="the submission of all cars")
    parser.add_argument(
        "--thresholded-output",
        type=Path,
        required=True,
        help="the submission of the cars above the threshold",
    )
    args = parser.parse_args()
    outputs = {"all": args.all_output, "thresholded": args.thresholded_output}
    check_outputs(*outputs.values())
    table, fit, image_ids = (
        cars.read(args.cars, scored=True),
        read_fit(args.fit),
        read_test_images(args.images),
    )
    if "above_threshold" not in table:
        raise UserError(f"{args.cars}: column above_threshold is missing; pass a table of carpose.fuse")
    for name, path in outputs.items():
        written = table if name == "all" else table[table["above_threshold"].astype(bool)]
        write_submission(path, written, image_ids)
        if print_validation(path, image_ids, strict=False):
            path.unlink()
            return 1
    print("\n".join(advice(fit, outputs)))
    return 0


def advice(fit: Fit, outputs: dict[str, Path]) -> list[str]:
    """Lines that say which file is for which scoring, with the mAP of the out-of-fold cars in each mode.

    outputs: `all` and `thresholded` → path.
    """
    lines = ["mAP to expect, measured on the out-of-fold cars:"]
    assert fit.mAP is not None  # in every file of carpose.fuse.fit
    expected = fit.mAP["submissions"]
    for name, path in outputs.items():
        rivals = [expected[file] for file in expected if file != name]
        best = [mode for mode in MODES if all(expected[name][mode] > rival[mode] for rival in rivals)]
        scores = ", ".join(f"{expected[name][mode]:.4f} {mode}" for mode in MODES)
        use = " and ".join(MODES[mode] for mode in best)
        lines.append(f"{path}: {FILES[name]}: {scores}" + f"; best for {use}" * bool(best))
    if expected["all"] == expected["thresholded"]:
        lines.append("Both files score the same, so it does not matter which is uploaded.")
    if max(expected["all"].values()) < UNTRAINED:
        lines.append(
            "The networks have found hardly any car: train for more epochs before you upload a file."
        )
    return lines


if __name__ == "__main__":
    run_main(main)
