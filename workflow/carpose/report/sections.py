"""The tables and statements of the report, computed from a run."""

import hashlib
import importlib.metadata
import platform

import numpy as np
import pandas as pd

from carpose.config.defaults import default_of_key, flatten
from carpose.config.sections import Pseudo
from carpose.fuse.fitted import DESCRIPTIONS
from carpose.registry.heads import HEADS

from .run import Run

PACKAGES = ["snakemake", "torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy", "scipy"]
PACKAGES += ["pandas", "opencv-python-headless"]
UNUSUAL = 4.0  # a loss is marked beyond this many times the range between a model's folds


def test_time_views(config: dict) -> str:
    """What the predictions of this configuration have beside one view of each photo; "" for nothing."""
    predict = config.get("predict", {})
    parts = {
        "mirror images": predict.get("flip"),
        "several test-time views": len(predict.get("tta_rotations_deg", ())) > 1,
        "the photos' masks": predict.get("mask_filter"),
    }
    return ", ".join(text for text, used in parts.items() if used)


def remarks(run: Run) -> list[str]:
    """What a reader should know first: what is unusual about this run, and its largest loss."""
    lines = []
    if limit := run.config.get("exclude", {}).get("max_photos"):
        lines.append(f"A trial run: of each table only the first {limit} photos are used.")
    asked = run.config.get("pseudo", {}).get("precision_positive", Pseudo.precision_positive)
    for name, report in run.pseudo.items():
        missed = [fold for fold, entry in report["folds"].items() if not entry["target_reached"]]
        if missed:
            folds = f"fold {missed[0]}" if len(missed) == 1 else f"folds {', '.join(missed)}"
            text = f"The pseudo labels of {name}, {folds}, do not reach the precision of {asked:g}"
            lines.append(f"{text}: what is trained on them may learn errors. Train for more epochs before.")
    scores_of = run.fit.mAP or {}
    if (best := max(scores_of["members"].values())) > scores_of["fused"]:
        lines.append(f"The fusion scores less than its best member alone ({best:.4f}).")
    left_out, share = models_left_out(run)
    if left_out:
        text = f"The fusion uses no prediction of {' and '.join(left_out)}"
        if share:
            text += f", which took {100 * share:.0f} % of the time of all trainings and predictions"
            text += "; it may be better spent on more epochs of the others"
        lines.append(f"{text}.")
    oracles = of_fused(run, "oracles")
    if len(oracles):
        single = oracles[oracles["oracle"].isin(["true depth", "true rotation", "no misses"])]
        largest = single.loc[single["gain"].idxmax()]
        lines.append(f"The largest loss: with {largest['oracle']} the mAP would be {largest['mAP']:.3f}.")
    return lines


def models_left_out(run: Run) -> tuple[list[str], float]:
    """The models of which the fusion uses no round, and their share of the measured time; 0 if none was.

    By the clock: Snakemake samples the processor time too rarely for short jobs.
    """
    used = {name.partition("/")[2] for name in run.fit.used}
    names = sorted({name.partition("/")[2] for name in run.members} - used)
    seconds = pd.to_numeric(run.cost["seconds"])
    model = run.cost["job"].str.split("/").str[1]  # of "train round0/dla34/fold0", "predict round0/dla34"
    total = seconds.sum()
    return names, float(seconds[model.isin(names)].sum() / total) if total else 0.0


def with_interval(value: float, sd: float) -> str:
    """A score with its 95 % interval over resampled photos."""
    if pd.isna(value):
        return "–"
    low, high = np.clip([value - 1.96 * sd, value + 1.96 * sd], 0, 1)
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def scores(run: Run) -> pd.DataFrame:
    """One row per model and round, and the fusion; best first."""
    source = run.scores
    table = pd.DataFrame({"model": source["name"]})
    for prefix, title in (("oof", "out of fold"), ("test", "hidden truth")):
        if f"{prefix}_mAP" in source:
            pairs = zip(source[f"{prefix}_mAP"], source[f"{prefix}_sd"], strict=True)
            table[f"mAP {title} [95 %]"] = [with_interval(*pair) for pair in pairs]
            table[f"leaderboard mAP {title}"] = source[f"{prefix}_mAP_leaderboard"].round(4)
    for column in source.filter(regex=r"^fold\d+_mAP$"):
        table[column.replace("_mAP", "")] = source[column].round(4)
    return table


def fusion_gains(run: Run) -> pd.DataFrame:
    """What each part of the fusion adds, on top of the parts above it."""
    rows = [
        {
            "part": name,
            "what it does": DESCRIPTIONS[name] + " (leaderboard's mAP)" * (name == "angle_range"),
            "used": "yes" if part.on else "no",
            "mAP gain, nested folds": f"{part.nested_gain:+.4f}",
        }
        for name, part in run.fit.parts.items()
    ]
    return pd.DataFrame(rows)


def fusion_summary(run: Run) -> list[str]:
    """The fused score against what it has to beat."""
    scores_of = run.fit.mAP or {}
    best, best_score = max(scores_of["members"].items(), key=lambda item: item[1])
    return [
        f"Best single model as it is ({best}): {best_score:.4f}.",
        f"The same model through the same fit: {scores_of['best_fitted']:.4f}.",
        f"All members with equal weights: {scores_of['equal_weights']:.4f}.",
        f"Fused: {scores_of['fused']:.4f}, from {', '.join(run.fit.used)}.",
    ]


def round_gains(run: Run) -> pd.DataFrame:
    """mAP out of fold of each model by round, and the difference to round 0."""
    table = run.scores[run.scores["name"] != "fused"].copy()
    parts = table["name"].str.split("/", n=1, expand=True)
    table = table.assign(round=parts[0], model=parts[1]).pivot(
        index="model", columns="round", values="oof_mAP"
    )
    for name in list(table.columns)[1:]:
        gains = table[name] - table["round0"]
        table[f"{name} − round0"] = gains.map("{:+.4f}".format, na_action="ignore")
    return table.round(4).reset_index()


def pseudo_labels(run: Run) -> pd.DataFrame:
    """One row per round and fold."""
    rows = []
    for name, report in run.pseudo.items():
        for fold, entry in report["folds"].items():
            row = {
                "round, fold": f"{name}, fold {fold}",
                "positives": entry["positive"],
                "ignored": entry["ignore"],
                "photos": entry["images"],
                "score threshold": round(entry["threshold_positive"], 3),
                "precision out of fold": entry["precision_out_of_fold"],
            }
            truth = entry.get("hidden_truth", {})
            row |= {f"{k.replace('_', ' ')} (hidden truth)": v for k, v in truth.items()}
            row |= {
                f"{k.replace('_', ' ')} since the round before": v for k, v in entry.get("drift", {}).items()
            }
            rows.append(row)
    return pd.DataFrame(rows).round(3)


def final_losses(run: Run) -> tuple[pd.DataFrame, set[tuple[int, str]]]:
    """The last epoch's losses of every training, and the cells (row, column) that stand out.

    A loss stands out where it differs from its round's median by more than UNUSUAL times s, the median over
    models of the range between a model's folds. Models trained alike should reach similar losses, so a large
    difference asks for its reason (learning rate, batch size, a bug).
    """
    columns = ["loss", *HEADS, "norm"]
    rows = {}
    for name, table in run.histories.items():
        last = table.iloc[-1]
        measured = table["mAP"].dropna() if "mAP" in table else pd.Series(dtype=float)
        rows[name] = {column: last[column] for column in columns if column in table}
        mean_ap = measured.iloc[-1] if len(measured) else np.nan
        rows[name] |= {"epochs": int(last["epoch"]), "mAP without test-time views": mean_ap}
    table = pd.DataFrame.from_dict(rows, orient="index")
    unusual = set()
    places = {name: place for place, name in enumerate(table.index)}
    for _, of_round in table.groupby(table.index.str.partition("/").get_level_values(0)):
        for column in (name for name in columns if name in table):
            values = of_round[column].dropna()
            model = values.index.str.rpartition("/").get_level_values(0)
            spread = values.groupby(model).agg(lambda v: v.max() - v.min()).median()
            off = (values - values.median()).abs() > UNUSUAL * max(spread, 1e-9)
            unusual |= {(places[name], column) for name in values.index[off]}
    table = table.rename_axis("training").reset_index()
    return table.round(4), unusual


def bands(run: Run) -> pd.DataFrame:
    """Recall and depth error of the fusion and of the best model by distance, out of fold."""
    names = ["fused", *run.members[:1]]
    table = run.bands[run.bands["name"].isin(names) & (run.bands["images"] == "out of fold")]
    return table.drop(columns="images").round(3)


def of_fused(run: Run, name: str) -> pd.DataFrame:
    """A table of the error analysis, rows of the fusion alone; empty where the analysis was not run."""
    table = run.analysis.get(name, pd.DataFrame())
    return table[table["name"] == "fused"].drop(columns="name").round(4) if "name" in table else table


def cost(run: Run) -> pd.DataFrame:
    """What was timed, and the sum."""
    if run.cost.empty:
        return run.cost
    numbers = run.cost.set_index("job").apply(pd.to_numeric, errors="coerce")
    total = {"seconds": numbers["seconds"].sum(), "processor seconds": numbers["processor seconds"].sum()}
    numbers.loc["all of these"] = {**total, "peak memory (MB)": numbers["peak memory (MB)"].max()}
    return numbers.round(0).rename_axis("job").reset_index()


def configuration(config: dict) -> pd.DataFrame:
    """Every key that was set, its value and default; `differs` marks those that are not the default's."""
    rows = []
    for key, value in flatten(config).items():
        default = default_of_key(config, key)
        text = "" if default is None else str(default)
        rows.append({"key": key, "value": str(value), "default": text, "differs": value != default})
    return pd.DataFrame(rows, columns=["key", "value", "default", "differs"])


def versions(run: Run) -> pd.DataFrame:
    """The code of the fused predictions, packages of this report, digests of the submissions."""
    rows = [
        ("carpose, of the fused predictions", run.code),
        ("Python of this report", platform.python_version()),
    ]
    for name in PACKAGES:
        try:
            rows.append((f"{name} (of this report)", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    for file in run.submissions.values():
        rows.append((f"SHA-256 of {file.name}", hashlib.sha256(file.read_bytes()).hexdigest()[:12]))
    return pd.DataFrame(rows, columns=["what", "version or digest"])


def counts(run: Run) -> dict[str, int]:
    """Photos and cars of the data."""
    test = run.images[run.images["split"] == "test"]
    return {
        "labelled photos": len(run.folds),
        "labelled cars": int(run.labels["ImageId"].isin(run.folds["ImageId"]).sum()),
        "folds": int(np.unique(run.folds["fold"]).size),
        "test photos": len(test),
    }
