"""Measure studies and put them into one table.

`measure`: the predictions of all runs of one study → its JSON. `table`: the JSONs of many studies → one
table (JSON, Markdown) and a picture. docs/studies.md explains how to read it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.files import run_main, write_text
from carpose.core.options import commands, whole
from carpose.core.version import code_version
from carpose.kaggle.read import (
    check_coverage,
    note_code,
    read_members,
    read_test_images,
    read_truth,
    tables_of,
)
from carpose.plots.figures import differences_figure, save

from .measure import compare
from .plan import BASE, read
from .table import insert, markdown, read_table

NO_LOSS = {"epoch", "lr", "norm", "seconds", "cpu_seconds", "mAP"}  # columns of history.csv


@dataclass(frozen=True)
class RunFiles:
    """predicted: folder with oof.parquet and test.parquet; trained: with model.pt and history.csv."""

    variant: str
    seed: int
    predicted: Path
    trained: Path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = commands(parser)
    sub = add("measure", "the metric of all runs of one study, as JSON", measure)
    sub.add_argument("--study", type=Path, required=True, help="the study's YAML file")
    sub.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    sub.add_argument("--labels", type=Path, required=True, help="labels.parquet of the check")
    sub.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    sub.add_argument("--fold", type=whole(0), default=0, help="the fold that no run has learnt from")
    sub.add_argument("--test-truth", type=Path, help="true cars of the test photos, CSV or Parquet")
    sub.add_argument(
        "--run",
        nargs=4,
        action="append",
        required=True,
        metavar=("VARIANT", "SEED", "PREDICTED", "TRAINED"),
        help="folder with oof.parquet and test.parquet, folder with model.pt and history.csv; "
        f"VARIANT {BASE} is what the others are compared with",
    )
    sub.add_argument("--samples", type=whole(1), default=500, help="resamples of the photos")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub = add("table", "studies side by side: differences, intervals, verdicts, losses", tabulate)
    sub.add_argument("studies", type=Path, nargs="+", help="JSONs of `measure`")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub.add_argument("--markdown", type=Path, help="Markdown to write")
    sub.add_argument("--document", type=Path, help="Markdown file whose table is replaced")
    sub.add_argument("--picture", type=Path, help="PNG to write: the differences with their intervals")
    args = parser.parse_args()
    args.action(args)


def measure(args: argparse.Namespace) -> None:
    study, folds = read(args.study), parquet.read_folds(args.folds)
    truth = cars.read(args.labels)
    image_ids = {"held_out": folds.ImageId[folds.fold == args.fold].tolist()}
    if args.test_truth:
        image_ids["test"] = read_test_images(args.images, excluded=False)
        truth = cars.concat([truth, read_truth(args.test_truth)])
    runs = [
        RunFiles(variant, int(seed), Path(predicted), Path(trained))
        for variant, seed, predicted, trained in args.run
    ]
    tables = {(run.variant, run.seed): predictions(run, image_ids["held_out"]) for run in runs}
    trained = {(run.variant, run.seed): run.trained for run in runs}
    variants = {
        variant: {
            "change": study.variants.get(variant, {}),
            "retrained": any(
                run.trained != trained[BASE, run.seed] for run in runs if run.variant == variant
            ),
            **entry,
            "runs": [training(run) for run in runs if run.variant == variant],
        }
        for variant, entry in compare(truth, image_ids, tables, args.samples).items()
    }
    content = {
        "study": study.name,
        "question": study.question,
        "base": study.base,
        "together": study.together,
        "note": study.note,
        "fold": args.fold,
        "photos": {name: len(ids) for name, ids in image_ids.items()},
        "samples": args.samples,
        "code": code_version(),
        "variants": variants,
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")
    print(f"{study.name}: {study.question}\n\n{markdown(read_table([args.output]))}")


def predictions(run: RunFiles, held_out: list[str]) -> pd.DataFrame:
    """The cars of one run, out of fold and on the test photos."""
    members = read_members(f"{name}={run.predicted / name}.parquet" for name in ("oof", "test"))
    check_coverage({"oof": members["oof"]}, held_out)
    note_code(members)
    return cars.concat(list(tables_of(members).values()))


def training(run: RunFiles) -> dict:
    """What a result says of a run's training."""
    from carpose.network.checkpoint import load_checkpoint  # torch takes seconds; a table can do without

    _, recipe, provenance = load_checkpoint(run.trained / "model.pt")
    history = pd.read_csv(run.trained / "history.csv")
    return {
        "seed": run.seed,
        "recipe": recipe.digest(),
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
    if args.document:
        insert(text, args.document)
    if args.picture:
        save(differences_figure(table[table["study"] != ""]), args.picture)
    print(text)


if __name__ == "__main__":
    run_main(main)
