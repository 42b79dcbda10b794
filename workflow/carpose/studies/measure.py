"""What the studies found: the metric of every run, and the table of what each change gains over its base.

`measure`: the predictions of all runs of one study → its JSON. `table`: the JSONs of many studies → one
table (JSON, Markdown) and a picture. docs/studies.md explains how to read it.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from . import UserError, bootstrap, cars, metric, parquet, plots, study
from .files import run_main, write_text
from .options import commands, whole

SETS = {"held_out": "mAP, held out", "test": "mAP, hidden truth"}
NO_LOSS = {"epoch", "lr", "norm", "seconds", "cpu_seconds", "mAP"}  # columns of history.csv
LOSSES = """\
Losses of the last epoch on the augmented training photos, without their weights; `loss` is the weighted sum.
Where a study changes a loss, a weight or the augmentation, they are not on one scale."""
POWER = 0.8  # chance to see a difference as large as the `detectable` one
MARKS = "<!-- table of carpose.studies -->", "<!-- end of the table -->"


def compare(
    truth: pd.DataFrame,
    image_ids: dict[str, list[str]],
    tables: dict[tuple[str, int], pd.DataFrame],
    samples: int,
) -> dict[str, dict]:
    """Variant → its mAP by seed and what it gains over the base, paired over seeds and photos.

    image_ids: set of photos (SETS) → its photos; gains are of all sets together. tables: (variant, seed)
    → cars. photo_error: standard deviation of the mean gain over resamples of the photos, the same for
    all seeds, since they are all measured on the same photos.
    """
    everywhere = [image_id for ids in image_ids.values() for image_id in ids]
    picks = bootstrap.draw_images(len(everywhere), samples, np.random.default_rng(0))
    seeds = sorted({seed for _, seed in tables})
    value, drawn = {}, {}
    for key, table in tables.items():
        value[key] = metric.evaluate(truth, table, everywhere)["mAP"]
        drawn[key] = bootstrap.resampled(truth, table, everywhere, picks)
    result = {}
    for variant in dict.fromkeys(variant for variant, _ in tables):
        own = [tables[variant, seed] for seed in seeds]
        gains = [drawn[variant, seed] - drawn[study.BASE, seed] for seed in seeds]
        result[variant] = {
            "mAP": [value[variant, seed] for seed in seeds],
            "gain": [value[variant, seed] - value[study.BASE, seed] for seed in seeds],
            "photo_error": float(np.mean(gains, axis=0).std(ddof=1)),
        } | {
            name: [metric.evaluate(truth, table, ids)["mAP"] for table in own]
            for name, ids in image_ids.items()
        }
    return result


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Variants with mAP and gain by seed, photo_error, photos, base and retrained → their mean mAP and gain,
    low, high, detectable and verdict (gain, loss or not resolved).

    The squared error of a mean gain is that of other seeds (`seed_error`) plus photo_error². The 95 %
    interval is Student's with the degrees of freedom of Welch and Satterthwaite; `detectable` is the
    difference that such intervals leave apart from zero in 80 % of all cases.
    """
    rows = rows.assign(seeds=rows["gain"].map(len))
    # A variant that predicts with its base's networks varies less than those that are trained.
    pools = [seed_error(group) for _, group in rows.groupby(["base", "retrained", "seeds"])]
    of_seeds, freedom = pd.concat(pools).loc[rows.index].to_numpy().T
    of_photos = rows["photo_error"] ** 2
    square = of_seeds + of_photos
    shares = of_seeds**2 / freedom + of_photos**2 / (rows["photos"] - 1)
    freedom = (square**2 / shares.where(shares > 0, 1)).clip(lower=1)  # runs that are alike to the last car
    error = np.sqrt(square)
    reach = stats.t.ppf(0.975, freedom) * error
    gain = rows["gain"].map(np.mean)
    return rows.assign(
        mAP=rows["mAP"].map(np.mean),
        gain=gain,
        low=gain - reach,
        high=gain + reach,
        detectable=reach + stats.t.ppf(POWER, freedom) * error,
        verdict=np.select([gain > reach, gain < -reach], ["gain", "loss"], "not resolved"),
    )


def seed_error(group: pd.DataFrame) -> pd.DataFrame:
    """Variants of one base with mAP and gain by seed → for each the squared error of its mean gain that
    comes from the seeds, and its degrees of freedom.

    Three seeds say little of their own spread, so it is taken from all variants together: an analysis of
    variance with the seeds as blocks and the base as one more variant. With a single variant it is the
    paired t-test.
    """
    runs = np.stack(group["mAP"])
    runs = np.vstack([runs[0] - group["gain"].iloc[0], runs])
    residual = runs - runs.mean(axis=0) - runs.mean(axis=1, keepdims=True) + runs.mean()
    freedom = (runs.shape[0] - 1) * (runs.shape[1] - 1)
    square = 2 * (residual**2).sum() / freedom / runs.shape[1]
    return pd.DataFrame({"square": square, "freedom": freedom}, index=group.index)


def read_table(paths: list[Path]) -> pd.DataFrame:
    """The JSONs of `measure` → one row per variant, judged; a base that studies share stands there once."""
    rows = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
            runs = {variant: entry["runs"] for variant, entry in content["variants"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error
        for variant, entry in content["variants"].items():
            rows.append(
                {
                    "study": "" if variant == study.BASE else content["study"],
                    "variant": variant,
                    "base": content["base"],
                    "change": text_of(entry["change"]) or f"(base: {content['base']})",
                    "photos": sum(content["photos"].values()),
                    "gain": entry["gain"],
                    "photo_error": entry["photo_error"],
                    "retrained": entry["retrained"],
                    "mAP": entry["mAP"],
                    **{name: float(np.mean(entry[name])) for name in content["photos"]},
                    **pd.DataFrame([run["losses"] for run in runs[variant]]).mean().add_prefix("loss."),
                    "cpu_minutes": float(np.mean([run["cpu_minutes"] for run in runs[variant]])),
                    "code": sorted({run["code"] for run in runs[variant]}),
                }
            )
    table = pd.DataFrame(rows)
    is_base = table["variant"] == study.BASE
    bases = table[is_base].drop_duplicates("base").drop(columns=["gain", "photo_error"])
    bases = bases.assign(seeds=bases["mAP"].map(len), mAP=bases["mAP"].map(np.mean))
    judged = judge(table[~is_base])
    parts = [
        part
        for base in bases["base"]
        for part in (bases[bases["base"] == base], judged[judged["base"] == base])
    ]
    return pd.concat(parts, ignore_index=True)


def text_of(change: dict) -> str:
    """As in the study's file, on one line."""
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in change.items()
    )


def markdown(table: pd.DataFrame) -> str:
    """The table to read: scores, differences with their intervals and verdicts; then the losses."""

    def number(value, sign=""):
        return "" if pd.isna(value) else f"{value:{sign}.4f}".replace("0.", ".", 1)

    sets = [name for name in SETS if name in table]
    code = ", ".join(sorted({version for versions in table["code"] for version in versions}))
    seeds = ", ".join(map(str, sorted(set(table["seeds"].astype(int)))))
    lines = [f"{seeds} seeds, {table['photos'].max()} photos to measure on, code {code}.", ""]
    head = ["study", "changed", *(SETS[name] for name in sets), "difference [95 %]", "could be seen"]
    lines += _row([*head, "verdict", "CPU min"]) + _row(["---"] * (len(head) + 2))
    for row in table.to_dict("records"):
        interval = f"{number(row['gain'], '+')} [{number(row['low'], '+')}, {number(row['high'], '+')}]"
        cells = [row["study"], row["change"], *(number(row[name]) for name in sets)]
        cells += [interval, number(row["detectable"]), row["verdict"]] if row["study"] else ["", "", ""]
        lines += _row([*cells, f"{row['cpu_minutes']:.1f}"])
    losses = [name for name in table if name.startswith("loss.")]
    lines += ["", LOSSES, ""]
    lines += _row(["study", "changed", *(name.removeprefix("loss.") for name in losses)])
    lines += _row(["---"] * (len(losses) + 2))
    for row in table.to_dict("records"):
        values = ("" if pd.isna(row[name]) else f"{row[name]:.3g}" for name in losses)
        lines += _row([row["study"], row["change"], *values])
    return "\n".join(lines) + "\n"


def _row(cells):
    return ["| " + " | ".join(cells) + " |"]


def insert(text: str, document: Path) -> None:
    """Put the table between MARKS in a document, in place of the one that is there."""
    begin, end = MARKS
    whole = document.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise UserError(f"{document}: no place for the table; it needs the lines {begin} and {end}")
    between = re.compile(f"(?<={re.escape(begin)}).*(?={re.escape(end)})", re.S)
    write_text(document, between.sub(lambda _: f"\n\n{text}\n", whole))


def _measure(args) -> None:
    from .checkpoint import code_version, load_checkpoint  # torch takes seconds; a table can do without

    found = study.read(args.study)
    folds, images = parquet.read_folds(args.folds), parquet.read_images(args.images)
    truth = cars.read(args.labels)
    image_ids = {"held_out": folds.ImageId[folds.fold == args.fold].tolist()}
    if args.test_truth:
        image_ids["test"] = images.ImageId[(images.split == "test") & (images.excluded == "")].tolist()
        truth = cars.concat([truth, metric.read_truth(args.test_truth)])
    runs, trainings, tables = {}, {}, {}
    for variant, seed, predicted, trained in args.run:
        key = variant, int(seed)
        parts = [cars.read(Path(predicted) / f"{name}.parquet", scored=True) for name in ("oof", "test")]
        tables[key], trainings[key] = cars.concat(parts), trained
        _, recipe, provenance = load_checkpoint(Path(trained) / "model.pt")
        history = pd.read_csv(Path(trained) / "history.csv")
        runs[key] = {
            "seed": int(seed),
            "recipe": recipe.digest(),
            **provenance,
            "losses": history.iloc[-1].drop(NO_LOSS, errors="ignore").to_dict(),
            "cpu_minutes": history["cpu_seconds"].sum() / 60,
        }
    own_network = {
        variant: trained != trainings[study.BASE, seed] for (variant, seed), trained in trainings.items()
    }
    compared = compare(truth, image_ids, tables, args.samples)
    variants = {
        variant: {
            "change": found.variants.get(variant, {}),
            "retrained": own_network[variant],
            **entry,
            "runs": [run for (name, _), run in runs.items() if name == variant],
        }
        for variant, entry in compared.items()
    }
    content = {
        "study": found.name,
        "question": found.question,
        "base": found.base,
        "together": found.together,
        "note": found.note,
        "fold": args.fold,
        "photos": {name: len(ids) for name, ids in image_ids.items()},
        "samples": args.samples,
        "code": code_version(),
        "variants": variants,
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")
    print(f"{found.name}: {found.question}\n\n{markdown(read_table([args.output]))}")


def _table(args) -> None:
    table = read_table(args.studies)
    text = markdown(table)
    write_text(args.output, table.to_json(orient="records", indent=1, double_precision=6) + "\n")
    if args.markdown:
        write_text(args.markdown, text)
    if args.document:
        insert(text, args.document)
    if args.picture:
        plots.save(plots.differences_figure(table[table["study"] != ""]), args.picture)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure studies and put them into one table.")
    command = commands(parser)
    sub = command("measure", "the metric of all runs of one study, as JSON", _measure)
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
        f"VARIANT {study.BASE} is what the others are compared with",
    )
    sub.add_argument("--samples", type=whole(1), default=500, help="resamples of the photos")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub = command("table", "studies side by side: differences, intervals, verdicts, losses", _table)
    sub.add_argument("studies", type=Path, nargs="+", help="JSONs of `measure`")
    sub.add_argument("--output", type=Path, required=True, help="JSON to write")
    sub.add_argument("--markdown", type=Path, help="Markdown to write")
    sub.add_argument("--document", type=Path, help="Markdown file whose table is replaced")
    sub.add_argument("--picture", type=Path, help="PNG to write: the differences with their intervals")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    run_main(main)
