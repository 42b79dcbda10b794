"""Differences between two runs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.compare.difference import changed_settings, score_differences
from carpose.core import cars
from carpose.core.errors import UserError
from tests.helpers import folds_of, noisy_view, scene


def run(folder: Path, truth, fused, model):
    """A run of one model and its fusion."""
    (folder / "round0" / "dla34").mkdir(parents=True)
    cars.write(folder / "round0" / "dla34" / "oof.parquet", model)
    folds = folds_of(truth, 2)
    values = [metric.evaluate_folds(truth, table, folds, "given") for table in (fused, model)]
    scores = pd.DataFrame({"name": ["fused", "round0/dla34"], "oof_mAP": values})
    return SimpleNamespace(folder=folder, labels=truth, folds=folds, fused_oof=fused, scores=scores)


@pytest.fixture
def runs(tmp_path):
    """The second run's fusion is better, its model is the same."""
    rng = np.random.default_rng(0)
    truth = scene(40, rng)
    same = noisy_view(truth, rng, depth_noise=0.05)
    poor, good = (noisy_view(truth, np.random.default_rng(1), depth_noise=noise) for noise in (0.08, 0.02))
    return run(tmp_path / "a", truth, poor, same), run(tmp_path / "b", truth, good, same)


def test_paired_differences(runs):
    table = score_differences(*runs, samples=60).set_index("name")
    a, b = runs
    for name, one in (("a", a), ("b", b)):
        assert table.loc["fused", name] == metric.evaluate_folds(
            one.labels, one.fused_oof, one.folds, "given"
        )
    low, high = (float(text) for text in table.loc["fused", "95 %"].strip("[]").split(","))
    assert 0 < low < table.loc["fused", "b − a"] < high
    assert table.loc["round0/dla34", ["b − a", "95 %"]].tolist() == [0, "[+0.0000, +0.0000]"]


def test_a_model_of_one_run_alone(runs):
    a, b = runs
    b.scores = b.scores.iloc[:1]
    row = score_differences(a, b, samples=10).set_index("name").loc["round0/dla34"]
    assert row["a"] > 0 and np.isnan(row["b"]) and row["95 %"] == "–"


@pytest.mark.parametrize("what", ["labels", "folds"])
def test_other_photos_are_refused(runs, what):
    a, b = runs
    table = getattr(b, what).copy()
    table[table.columns[-1]] = table[table.columns[-1]].to_numpy()[::-1]
    setattr(b, what, table)
    with pytest.raises(UserError, match="differ in photos, labels or folds"):
        score_differences(a, b, samples=10)


def test_settings_that_differ():
    """A key that is not set has its default: `train:`'s for a model. A model that is not there has none."""
    a = {"rounds": 2, "train": {"lr": 0.1, "epochs": 3}, "models": {"x": None, "y": {"lr": 0.2}}}
    b = {"rounds": 2, "train": {"lr": 0.2}, "models": {"x": {"width": 0.5}, "y": {"epochs": 30}}}
    table = changed_settings(a, b)
    assert table.to_numpy().tolist() == [
        ["train.lr", "0.1", "0.2"],
        ["train.epochs", "3", "30"],
        ["models.x.width", "–", "0.5"],
        ["models.y.epochs", "3", "30"],
    ]
