"""What is reported of pseudo labels, where more is known: their distances, hidden truth, the round before."""

import itertools

import numpy as np
import pandas as pd

from carpose import metric
from carpose.core import cars
from carpose.fuse.clustering import cluster, rays

BANDS = [0, 20, 40, 60, np.inf]  # metres


def by_distance(table: pd.DataFrame) -> dict[str, float]:
    """Share of the cars in each band of depth."""
    counts = np.histogram(table["z"], BANDS)[0]
    names = [f"{low}–{high:g} m" for low, high in itertools.pairwise(BANDS)]
    return dict(zip(names, (counts / max(len(table), 1)).round(4).tolist(), strict=True))


def against_truth(truth: pd.DataFrame, table: pd.DataFrame) -> dict[str, float | None]:
    """Pseudo labels of one fold against the true cars of the same photos, for the report alone.

    precision: share of the positives that hit a true car; recall: share of the true cars they hit;
    ignored_hits: share of the ignored cars that hit one; as_background: share of the true cars that
    neither hits, which training takes for road.
    """
    hits = metric.match(truth, table)[:, 0]
    sure = (table["role"] == "positive").to_numpy(bool)

    def share(count, of):
        return float(count / of) if of else None

    return {
        "precision": share(hits[sure].sum(), sure.sum()),
        "recall": share(hits[sure].sum(), len(truth)),
        "ignored_hits": share(hits[~sure].sum(), (~sure).sum()),
        "as_background": share(len(truth) - hits.sum(), len(truth)),
    }


def drift(previous: pd.DataFrame, table: pd.DataFrame) -> dict[str, float | None]:
    """How the positives of one round (and fold) differ from those of the round before.

    kept: share of the earlier that are still there; new: share of the later that were not;
    median_shift: of those in both, distance over range.
    """
    both = cars.concat([previous[["ImageId", *cars.POSE]], table[["ImageId", *cars.POSE]]])
    if not len(previous) or not len(table):
        return {"kept": None, "new": None, "median_shift": None}
    member = np.repeat([0, 1], [len(previous), len(table)])
    direction, log_range = rays(both)
    tolerance = np.full(len(both), 0.1 / np.sqrt(2))
    labels = cluster(
        *(pd.factorize(both["ImageId"])[0], member, direction, log_range),
        *(tolerance, tolerance, -member.astype(float)),
        recentre=False,
    )
    before, after = labels[member == 0], labels[member == 1]
    _, i, j = np.intersect1d(before, after, return_indices=True)
    at = [part[cars.POSITION].to_numpy(float) for part in (previous.iloc[i], table.iloc[j])]
    shift = np.linalg.norm(at[0] - at[1], axis=1) / np.linalg.norm(at[0], axis=1)
    return {
        "kept": len(i) / len(previous),
        "new": 1 - len(j) / len(table),
        "median_shift": float(np.median(shift)) if len(shift) else None,
    }
