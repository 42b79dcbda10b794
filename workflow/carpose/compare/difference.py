"""What differs between two runs: settings, and scores on the same photos."""

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.evaluation.scores import resampled_folds
from carpose.metric import evaluate_folds
from carpose.report.run import Run


def changed_settings(a: dict, b: dict) -> pd.DataFrame:
    """One row per key that differs; – where a configuration does not have it."""
    flat_a, flat_b = flatten(a), flatten(b)
    keys = [key for key in {**flat_a, **flat_b} if flat_a.get(key, "–") != flat_b.get(key, "–")]
    rows = [(key, str(flat_a.get(key, "–")), str(flat_b.get(key, "–"))) for key in keys]
    return pd.DataFrame(rows, columns=["key", "a", "b"])


def flatten(config: dict, prefix: str = "") -> dict[str, object]:
    """{"train": {"lr": 0.1}} → {"train.lr": 0.1}."""
    result: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def score_differences(a: Run, b: Run, samples: int) -> pd.DataFrame:
    """The fusion and every model and round: mAP out of fold of either run, and the difference where both have
    it. Raises UserError where they were not scored on the same photos and labels in the same folds."""
    check_same_photos(a, b)
    names = list(dict.fromkeys([*a.scores["name"], *b.scores["name"]]))
    rows = []
    for name in names:
        tables = [out_of_fold(run, name) if name in set(run.scores["name"]) else None for run in (a, b)]
        values = [np.nan if t is None else evaluate_folds(a.labels, t, a.folds, "given") for t in tables]
        row = {"name": name, "a": values[0], "b": values[1], "b − a": values[1] - values[0], "95 %": "–"}
        if tables[0] is not None and tables[1] is not None:
            one, other = (resampled_folds(a.labels, table, a.folds, samples) for table in tables)
            low, high = np.quantile(other - one, [0.025, 0.975])
            row["95 %"] = f"[{low:+.4f}, {high:+.4f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def out_of_fold(run: Run, name: str) -> pd.DataFrame:
    """The out-of-fold cars of the fusion or of a model in a round."""
    return run.fused_oof if name == "fused" else cars.read(run.folder / name / "oof.parquet", scored=True)


def check_same_photos(a: Run, b: Run) -> None:
    """Raises UserError where the runs differ in photos, labels or folds."""
    folds = [run.folds.sort_values("ImageId")[["ImageId", "fold"]].to_numpy() for run in (a, b)]
    labels = [run.labels.sort_values(["ImageId", *cars.POSE])[["ImageId", *cars.POSE]] for run in (a, b)]
    same_labels = labels[0].reset_index(drop=True).equals(labels[1].reset_index(drop=True))
    if not np.array_equal(*folds) or not same_labels:
        text = "differ in photos, labels or folds, so their scores cannot be compared"
        advice = "give both the same data and the same settings of exclude and folds"
        raise UserError(f"{a.folder} and {b.folder}: {text}; {advice}")
