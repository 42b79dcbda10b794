"""The metric of resampled photos is that of a table in which the drawn photos stand as often as drawn."""

import numpy as np
import pandas as pd
import pytest

from carpose import metric
from carpose.metric import bootstrap
from tests.helpers import noisy_view, scene


def copies(table: pd.DataFrame, ids: list[str], pick: np.ndarray) -> pd.DataFrame:
    """The photos as often as drawn, each copy under a name of its own."""
    parts = [
        table[table["ImageId"] == image_id].assign(ImageId=f"{image_id}_{copy}")
        for image_id, times in zip(ids, pick, strict=True)
        for copy in range(times)
    ]
    return pd.concat(parts, ignore_index=True)


def test_against_the_metric_of_copied_photos():
    rng = np.random.default_rng(0)
    truth = scene(12, rng)
    predictions = noisy_view(truth, rng)
    ids = [*sorted(truth["ImageId"].unique()), "no_car_at_all"]
    outside = predictions.iloc[:3].assign(ImageId="elsewhere")
    wrong = predictions.iloc[3:6].assign(ImageId="no_car_at_all")
    predictions = pd.concat([predictions, wrong, outside], ignore_index=True)
    picks = bootstrap.draw_images(len(ids), 5, rng)
    assert (picks.sum(axis=1) == len(ids)).all()
    values = bootstrap.resampled_scores(truth, predictions, ids, picks)
    for value, pick in zip(values, picks, strict=True):
        tables = [copies(table, ids, pick) for table in (truth, predictions)]
        assert value == pytest.approx(metric.evaluate(*tables)["mAP"], abs=1e-12)
    assert len(set(values)) > 1
