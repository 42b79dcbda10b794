"""Error analysis: mAP by group of cars, by threshold and by cause; how well scores and predicted
uncertainties are calibrated; the worst images. And the receptive field of networks.

    python -m carpose.analysis errors           tables and pictures of predictions whose truth is known
    python -m carpose.analysis receptive-field  theoretical and effective receptive field of networks

In (errors): the checked tables, tables of predicted cars. Out: a folder of CSV tables and PNG pictures.
"""

import argparse
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.files import run_main, write_text
from carpose.core.options import NAME_PATHS, commands, int_at_least, program
from carpose.drawing.figures import cars_figure
from carpose.drawing.layers import PREDICTED, TRUE
from carpose.geometry import camera
from carpose.kaggle.read import check_out_of_fold, check_same_photos, read_members
from carpose.plots.figures import add_lenient, draw

from .errors import errors
from .figures import calibration_figure, causes_figure, groups_figure, receptive_figure
from .member_pairs import member_pairs


def main() -> None:
    parser = program("carpose.analysis", __doc__)
    add = commands(parser)
    sub = add("errors", "tables and pictures of the errors of predictions", analyse_errors)
    sub.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    sub.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    sub.add_argument("--folds", type=Path, required=True, help="folds.parquet: the images to analyse")
    sub.add_argument("--data", type=Path, required=True, help="folder of the competition's layout")
    sub.add_argument(
        "--members",
        required=True,
        **NAME_PATHS,
        help="out-of-fold cars; most pictures are of the first member only",
    )
    sub.add_argument(
        "--worst", type=int_at_least(1), default=6, help="how many of the worst images are drawn"
    )
    sub.add_argument("--output", type=Path, required=True, help="folder for the tables and pictures")
    add_lenient(sub)

    sub = add("receptive-field", "receptive field of a cell of the output maps", measure_receptive_fields)
    sub.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="model.pt of the networks")
    sub.add_argument("--cache", type=Path, required=True, help="folder of the image cache")
    sub.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    sub.add_argument(
        "--photos", type=int_at_least(1), default=8, help="photos over which gradients are averaged"
    )
    sub.add_argument("--threads", type=int_at_least(1), default=1, help="threads of PyTorch")
    sub.add_argument("--output", type=Path, required=True, help="CSV table to write")
    sub.add_argument("--picture", type=Path, required=True, help="PNG to write")
    add_lenient(sub)
    args = parser.parse_args()
    args.action(args)


def analyse_errors(args: argparse.Namespace) -> None:
    folds, images = parquet.read_folds(args.folds), parquet.read_images(args.images).set_index("ImageId")
    labels, members = cars.read(args.labels), read_members(args.members)
    check_out_of_fold(members, folds)
    check_same_photos(args.labels, labels, folds["ImageId"])
    intrinsics = camera.read_intrinsics(camera.intrinsics_file(args.data))
    photo_size = tuple(images.loc[folds["ImageId"], ["width", "height"]].iloc[0])
    truth = labels[labels["ImageId"].isin(folds["ImageId"])]
    tables_of = {}
    for name, member in members.items():
        predictions = member.cars[member.cars["ImageId"].isin(folds["ImageId"])]
        tables_of[name] = errors(truth, predictions, folds, intrinsics, photo_size)
    shown, tables = next(iter(tables_of.items()))
    for table_name in tables:
        stacked = pd.concat([tables[table_name].assign(name=name) for name, tables in tables_of.items()])
        write(args.output / f"{table_name}.csv", stacked[["name", *tables[table_name].columns]])

    models = {name: member.cars for name, member in members.items() if name != shown}
    write(args.output / "member_pairs.csv", member_pairs(truth, models))

    worst = tables["worst"]["ImageId"].head(args.worst)
    photos = {image_id: args.data / "train_images" / f"{image_id}.jpg" for image_id in worst}
    layers = [(truth, TRUE), (submitted(members[shown].cars), PREDICTED)]
    figures = {
        "groups": lambda: groups_figure({name: tables["groups"] for name, tables in tables_of.items()}),
        "causes": lambda: causes_figure(tables["thresholds"], tables["oracles"]),
        "calibration": lambda: calibration_figure(tables["scores"], tables["depth"]),
        "worst": lambda: cars_figure(photos, intrinsics, layers),
    }
    for name, make in figures.items():
        draw(args.output / f"{name}.png", make, args.lenient)
    print(f"{shown}: mAP if a single error were corrected, and the gain over the predictions")
    print(tables["oracles"].to_string(index=False, float_format="{:.4f}".format))
    print(f"\n{shown}: share of the true cars with each outcome, by pair of thresholds")
    print(tables["thresholds"].to_string(index=False, float_format="{:.3f}".format))


def submitted(predictions: pd.DataFrame) -> pd.DataFrame:
    """The cars above the fusion's threshold; of a table that was not fused, those with a score above 0.5."""
    return predictions[
        predictions["above_threshold"] if "above_threshold" in predictions else predictions["score"] > 0.5
    ]


def measure_receptive_fields(args: argparse.Namespace) -> None:
    import torch  # here, because the command `errors` works without

    from .receptive_field import NEAR_QUANTILES, measure

    torch.set_num_threads(args.threads)
    table, gradients, near = measure(args.checkpoints, args.cache, cars.read(args.labels), args.photos)
    write(args.output, table)
    draw(args.picture, lambda: receptive_figure(gradients, table, near), args.lenient)
    print(table.to_string(index=False, float_format="{:.1f}".format))
    for quantile, distance in zip(NEAR_QUANTILES[:2], near["metres"], strict=False):
        print(f"{100 * quantile:.0f} % of all cars are nearer than {distance:.1f} m")


def write(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    run_main(main)
