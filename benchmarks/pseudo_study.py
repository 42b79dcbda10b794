"""What pseudo labels are worth at several sizes of the labelled set (docs/ensemble.md, proof 3).

One small Hourglass learns from n labelled photos; then it goes on for half as many steps, in several ways:

  none      it does not go on
  longer    without pseudo labels
  naive     with hard labels, as was published: all cars above one threshold count fully, all else is road,
            and both folds' models made them
  ours      as the pipeline does: soft, unsure places left out, from models that never saw the fold
  fifth     the same, with a fifth of the samples instead of half of them
  student   as ours, with twice the augmentation on the pseudo-labelled photos

Every way is measured on held-out photos and on the unlabelled photos themselves, by their hidden truth.

    python -m benchmarks.pseudo_study results/pseudo_study --output study.json
"""

import itertools
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import measure
from carpose.config.load import recipe_of
from carpose.config.options import command_line
from carpose.config.recipe import Recipe
from carpose.config.sections import Cache
from carpose.core import cars, parquet
from carpose.kaggle.read import read_truth
from carpose.metric import bootstrap
from carpose.metric.score import best_threshold, evaluate

WAYS = ["none", "longer", "naive", "ours", "fifth", "student"]
POOL, HELD_OUT, UNLABELLED = 1200, 300, 400


def python(module: str, *arguments) -> None:
    """Run a module with arguments to its end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=measure.environment())
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


def prepare(folder: Path) -> None:
    """Photos, tables and cache, once."""
    if (folder / "cache" / "cache.json").is_file():
        return
    data, images = folder / "data", ("--images", folder / "images.parquet")
    counts = ("--train-images", POOL + HELD_OUT, "--test-images", UNLABELLED, "--seed", 77)
    python("carpose.synth", "--output", data, "--truth-output", folder / "truth.csv", *counts)
    tables = (*images, "--labels", folder / "labels.parquet", "--findings", folder / "findings.csv")
    python("carpose.kaggle", "check", data, *tables)
    cache = shlex.split(command_line(Cache, measure.configuration()["cache"]))
    python("carpose.data", "cache", "--data", data, *images, *cache, "--output", folder / "cache")


class Cell:
    """One size and seed: two folds of `size` photos each; fold 0's model is the one that is studied."""

    def __init__(self, folder: Path, size: int, seed: int, presentations: int):
        self.data, self.size, self.seed, self.presentations = folder, size, seed, presentations
        self.folder = folder / f"{size}-{seed}"
        self.folder.mkdir(exist_ok=True)
        ids = np.sort(pd.read_parquet(folder / "images.parquet").query("split == 'train'").ImageId)
        ids = np.random.default_rng(5).permutation(ids)
        held_out, pool = ids[:HELD_OUT], ids[HELD_OUT:]
        chosen = np.random.default_rng([size, seed]).permutation(pool)[: 2 * size]
        # Fold 0's model learns from fold 1's photos and the other way round.
        self.folds = pd.DataFrame({"ImageId": chosen, "fold": np.arange(2 * size) % 2})
        parquet.write(self.folder / "folds.parquet", self.folds)
        parquet.write(self.folder / "held_out.parquet", pd.DataFrame({"ImageId": held_out, "fold": 0}))
        self.photos = ("--cache", folder / "cache", "--images", folder / "images.parquet")

    def train(self, name: str, fold: int, pseudo: Path | None = None, **changes) -> Path:
        """A teacher's model or, with pseudo labels, that of a student of half as many epochs."""
        model = self.folder / f"{name}.pt"
        if model.is_file():
            return model
        later, epochs = pseudo is not None, self.presentations // self.size
        recipe = recipe_of(measure.configuration(), "hourglass", int(later))
        recipe |= {"seed": self.seed, "epochs": epochs // 2 if later else epochs, **changes}
        files = ("--labels", self.data / "labels.parquet", "--folds", self.folder / "folds.parquet")
        if later:
            files += ("--pseudo", pseudo, "--start-weights", self.folder / "teacher0.pt")
        python(
            *("carpose.train", *self.photos, *files, "--fold", fold, "--output", model),
            *("--history", model.with_suffix(".csv"), "--state", model.with_suffix(".state")),
            *("--validate-every", 0, *shlex.split(command_line(Recipe, recipe))),
        )
        return model

    def predict(self, name: str, models: list[Path], folds: str) -> dict[str, Path]:
        tables = {table: self.folder / f"{name}_{table}.parquet" for table in ("oof", "test", "test_folds")}
        if not tables["test_folds"].is_file():
            outputs = [
                word for table, path in tables.items() for word in (f"--{table.replace('_', '-')}", path)
            ]
            python(
                *("carpose.predict", "--checkpoints", *models, *self.photos, "--flip", "true"),
                *("--folds", self.folder / f"{folds}.parquet", *outputs),
            )
        return tables

    def naive(self, labels: pd.DataFrame, tables: dict[str, Path]) -> Path:
        """Every car above the threshold that is best out of fold, the same for both folds."""
        oof, test = (cars.read(tables[name]) for name in ("oof", "test"))
        truth = labels[labels["ImageId"].isin(self.folds["ImageId"])]
        table = test[test["score"] >= best_threshold(truth, oof)]
        both = [table.assign(weight=1.0, role="positive", fold=fold) for fold in (0, 1)]
        cars.write(self.folder / "naive.parquet", cars.concat(both))
        return self.folder / "naive.parquet"

    def run(self) -> dict[str, dict[str, Path]]:
        """Way → tables of its predictions (oof: of the held-out photos)."""
        labels = cars.read(self.data / "labels.parquet")
        teachers = [self.train(f"teacher{fold}", fold) for fold in (0, 1)]
        tables = self.predict("teachers", teachers, "folds")
        ours = self.folder / "pseudo.parquet"
        python(
            *("carpose.pseudo", "--labels", self.data / "labels.parquet"),
            *("--folds", self.folder / "folds.parquet", "--test-truth", self.data / "truth.csv"),
            *("--fit-members", f"a={tables['oof']}", "--test-members", f"a={tables['test_folds']}"),
            *("--output", ours, "--report", self.folder / "pseudo.json"),
        )
        models = {
            "none": teachers[0],
            "longer": self.train("longer", 0, ours, pseudo_share=0.0),
            "naive": self.train("naive", 0, self.naive(labels, tables), pseudo_share=0.5),
            "ours": self.train("ours", 0, ours, pseudo_share=0.5),
            "fifth": self.train("fifth", 0, ours, pseudo_share=0.2),
            "student": self.train("student", 0, ours, pseudo_share=0.5, pseudo_augment_scale=2.0),
        }
        print(f"{self.size} photos, seed {self.seed}: done", flush=True)
        return {way: self.predict(way, [model], "held_out") for way, model in models.items()}


def compare(truth: pd.DataFrame, image_ids: np.ndarray, tables: list[dict], samples: int) -> list[dict]:
    """Per way the mean mAP over the seeds and its difference to `longer`, paired over seeds and photos."""
    truth = truth[truth["ImageId"].isin(image_ids)]
    rng = np.random.default_rng(0)
    photos = np.sort(truth["ImageId"].unique())
    # The same photos for all seeds, as they are all measured on the same photos.
    picks = bootstrap.draw_images(len(photos), samples, rng)
    value, draws = {}, {}
    for way in WAYS:
        value[way] = [evaluate(truth, table[way], photos)["mAP"] for table in tables]
        draws[way] = [bootstrap.resampled(truth, table[way], photos, picks) for table in tables]
    # Seeds are drawn too: the interval holds for another seed, not for these alone.
    seeds = rng.integers(len(tables), size=(samples, len(tables)))
    rows = []
    for way in WAYS:
        gain = np.array(draws[way]) - np.array(draws["longer"])
        gain = gain[seeds, np.arange(samples)[:, None]].mean(axis=1)
        low, high = np.quantile(gain, [0.025, 0.975])
        rows.append(
            {
                "way": way,
                "mAP": float(np.mean(value[way])),
                "gain": float(np.mean(value[way]) - np.mean(value["longer"])),
                "low": float(low),
                "high": float(high),
                "seeds": value[way],
            }
        )
    return rows


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where data and models go; what is there is not made again")
    parser.add_argument("--sizes", type=int, nargs="+", default=[75, 150, 300, 600], help="labelled photos")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--presentations", type=int, default=3000, help="photos a teacher is shown; students see half more"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    prepare(args.folder)
    cells = [
        Cell(args.folder, size, seed, args.presentations)
        for seed, size in itertools.product(range(args.seeds), args.sizes)
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        predicted = dict(zip(((c.size, c.seed) for c in cells), pool.map(Cell.run, cells), strict=True))

    labels, hidden = cars.read(args.folder / "labels.parquet"), read_truth(args.folder / "truth.csv")
    held_out = pd.read_parquet(cells[0].folder / "held_out.parquet").ImageId.to_numpy()
    result = {}
    for size in args.sizes:
        for photos, truth, table in (("held out", labels, "oof"), ("unlabelled", hidden, "test")):
            tables = [
                {way: cars.read(paths[table]) for way, paths in predicted[size, seed].items()}
                for seed in range(args.seeds)
            ]
            ids = held_out if table == "oof" else hidden["ImageId"].unique()
            result[f"{size} {photos}"] = rows = compare(truth, ids, tables, args.samples)
            print(f"\n{size} labelled photos, measured on the {photos} ones")
            print("| way | mAP | gain over longer [95 %] |\n|---|---|---|")
            for row in rows:
                print(
                    f"| {row['way']} | {row['mAP']:.4f} | {row['gain']:+.4f} "
                    f"[{row['low']:+.4f}, {row['high']:+.4f}] |"
                )
    measure.keep(args.output, result)


if __name__ == "__main__":
    main()
