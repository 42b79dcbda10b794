"""What differs between two runs: settings, and scores on the same photos."""

import numpy as np
import pandas as pd

from carpose.config.defaults import default_of_key, flatten
from carpose.core import cars
from carpose.core.errors import UserError
from carpose.evaluation.scores import resampled_folds
from carpose.report.run import Run


def changed_settings(a: dict, b: dict) -> pd.DataFrame:
    """One row per key that differs; a key that is not set has its default, – if it has none."""
    rows = []
    for key in flatten(a) | flatten(b):
        values = [flatten(config).get(key, default_of_key(config, key)) for config in (a, b)]
        if values[0] != values[1]:
            rows.append((key, *("–" if value is None else str(value) for value in values)))
    return pd.DataFrame(rows, columns=["key", "a", "b"])


def score_differences(a: Run, b: Run, samples: int) -> pd.DataFrame:
    """The fusion and every model and round: mAP out of fold of either run, and the difference where both have
    it. Raises UserError where they were not scored on the same photos and labels in the same folds."""
    check_same_photos(a, b)
    scores = [run.scores.set_index("name")["oof_mAP"] for run in (a, b)]
    table = pd.concat(scores, axis=1, keys=["a", "b"]).rename_axis("name")
    table["b − a"], table["95 %"] = table["b"] - table["a"], "–"
    for name in table.index[table["b − a"].notna()]:
        resampled = [resampled_folds(a.labels, out_of_fold(run, name), a.folds, samples) for run in (a, b)]
        low, high = np.quantile(resampled[1] - resampled[0], [0.025, 0.975])
        table.loc[name, "95 %"] = f"[{low:+.4f}, {high:+.4f}]"
    return table.reset_index()


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
