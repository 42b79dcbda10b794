"""Measure studies and put them into one table.

`measure`: the predictions of all runs of one study → its JSON. `table`: the JSONs of many studies → one
table (JSON, Markdown) and a picture. docs/extending.md explains how to read it.
"""

import argparse
import hashlib
import json
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.files import run_main, write_text
from carpose.core.options import commands, int_at_least, program
from carpose.core.version import code_version
from carpose.kaggle import read
from carpose.plots.figures import add_lenient, differences_figure, draw

from . import plan
from .table import CHOOSING, compare, markdown, read_table

NO_LOSS = {"epoch", "lr", "norm", "seconds", "cpu_seconds", "mAP"}  # columns of history.csv


def main() -> None:
    parser = program("carpose.studies", __doc__)
    add = commands(parser)
    sub = add("measure", "the metric of all runs of one study, as JSON", measure)
    sub.add_argument("--study", type=Path, required=True, help="the study's YAML file")
    sub.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    sub.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    sub.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    sub.add_argument("--fold", type=int_at_least(0), default=0, help="the fold that no run has learnt from")
    sub.add_argument("--test-truth", type=Path, help="true cars of the test photos, CSV or Parquet")
    text = "folder with oof.parquet and test.parquet, folder with model.pt and history.csv; "
    text += f"VARIANT {plan.BASE} is what the others are compared with"
    names = ("VARIANT", "SEED", "PREDICTED", "TRAINED")
    sub.add_argument("--run", nargs=4, action="append", required=True, metavar=names, help=text)
    sub.add_argument("--samples", type=int_at_least(1), default=500, help="resamples of the photos")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub = add("table", "studies side by side: differences, intervals, verdicts, losses", tabulate)
    sub.add_argument("studies", type=Path, nargs="+", help="JSONs of `measure`")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub.add_argument("--markdown", type=Path, help="Markdown to write")
    sub.add_argument("--picture", type=Path, help="PNG to write: the differences with their intervals")
    add_lenient(sub)
    args = parser.parse_args()
    args.action(args)


def measure(args: argparse.Namespace) -> None:
    study, folds = plan.read(args.study), parquet.read_folds(args.folds)
    truth = cars.read(args.labels)
    read.check_same_photos(args.labels, truth, folds["ImageId"])
    held_out = folds[folds["fold"] == args.fold]
    image_ids = {CHOOSING: held_out["ImageId"].tolist()}
    if args.test_truth:
        image_ids["test"] = read.read_test_images(args.images, excluded=False)
        test_truth = read.read_truth(args.test_truth)
        read.check_same_photos(args.test_truth, test_truth, image_ids["test"])
        truth = cars.concat([truth, test_truth])
    tables, trained = {}, {}
    for variant, seed, predicted, folder in args.run:
        tables[variant, int(seed)] = predictions(Path(predicted), held_out, image_ids.get("test", []))
        trained[variant, int(seed)] = Path(folder)
    variants = {}
    for variant, entry in compare(truth, image_ids, tables, args.samples).items():
        folders = {seed: folder for (name, seed), folder in trained.items() if name == variant}
        variants[variant] = {
            "change": study.variants.get(variant, {}),
            "retrained": any(folder != trained[plan.BASE, seed] for seed, folder in folders.items()),
            **entry,
            "runs": [training(seed, folder, args.fold) for seed, folder in folders.items()],
        }
    content = {
        "study": study.name,
        **{name: getattr(study, name) for name in ("question", "base", "together", "note")},
        "fold": args.fold,
        "photos": {name: len(ids) for name, ids in image_ids.items()},
        "photos_digest": {name: digest_of(ids) for name, ids in image_ids.items()},
        "samples": args.samples,
        "code": code_version(),
        "variants": variants,
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")
    print(f"{study.name}: {study.question}\n\n{markdown(read_table([args.output]))}")


def predictions(folder: Path, held_out: pd.DataFrame, test_ids: list[str]) -> pd.DataFrame:
    """The cars of one run, out of fold and on the test photos: oof.parquet and test.parquet of a folder.

    held_out: the photos of the fold, as in folds.parquet.
    """
    members = read.read_members(f"{name}={folder / name}.parquet" for name in ("oof", "test"))
    read.check_out_of_fold({"oof": members["oof"]}, held_out)
    read.check_coverage({"test": members["test"]}, test_ids)
    return cars.concat(list(read.tables_of(members).values()))


def digest_of(image_ids: list[str]) -> str:
    """The same for the same photos in any order."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()[:16]


def training(seed: int, folder: Path, fold: int) -> dict:
    """What a result says of a training, from its folder with model.pt and history.csv.

    fold: which it must not have learnt from.
    """
    from carpose.network.checkpoint import load_checkpoint  # torch takes seconds; a table can do without

    _, train_config, provenance = load_checkpoint(folder / "model.pt", fold)
    history = pd.read_csv(folder / "history.csv")
    return {
        "seed": seed,
        "train_config": train_config.digest(),
        **provenance,
        "losses": history.iloc[-1].drop(NO_LOSS, errors="ignore").to_dict(),
        "cpu_minutes": history["cpu_seconds"].sum() / 60,
    }


def tabulate(args: argparse.Namespace) -> None:
    table = read_table(args.studies)
    text = markdown(table)
    write_text(args.output, table.to_json(orient="records", indent=1, double_precision=6) + "\n")
    if args.markdown:
        write_text(args.markdown, text)
    if args.picture:
        draw(args.picture, lambda: differences_figure(table[table["study"] != ""]), args.lenient)
    print(text)


if __name__ == "__main__":
    run_main(main)
