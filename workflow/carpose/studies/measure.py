"""What a study found: the metric of every run, and what each change gains over its base.

In: truth and the predictions of all runs. Out: per variant its mAP by seed, gains, their intervals.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from carpose import metric
from carpose.metric import bootstrap

from .plan import BASE

POWER = 0.8  # chance to see a difference as large as the `detectable` one


def compare(
    truth: pd.DataFrame,
    image_ids: Mapping[str, Sequence[str]],
    tables: Mapping[tuple[str, int], pd.DataFrame],
    samples: int,
) -> dict[str, dict]:
    """Variant → its mAP by seed and what it gains over the base, paired over seeds and photos.

    image_ids: name of a set of photos → its photos; gains are of all sets together. tables: (variant, seed)
    → cars. photo_error: standard deviation of the mean gain over resamples of the photos, the same for
    all seeds, since they are all measured on the same photos.
    """
    everywhere = [image_id for ids in image_ids.values() for image_id in ids]
    picks = bootstrap.draw_images(len(everywhere), samples, np.random.default_rng(0))
    seeds = sorted({seed for _, seed in tables})
    value, drawn = {}, {}
    for run, table in tables.items():
        value[run] = metric.evaluate(truth, table, everywhere)["mAP"]
        drawn[run] = bootstrap.resampled(truth, table, everywhere, picks)
    result = {}
    for variant in dict.fromkeys(variant for variant, _ in tables):
        gains = [drawn[variant, seed] - drawn[BASE, seed] for seed in seeds]
        by_set = {
            name: [metric.evaluate(truth, tables[variant, seed], ids)["mAP"] for seed in seeds]
            for name, ids in image_ids.items()
        }
        result[variant] = {
            "mAP": [value[variant, seed] for seed in seeds],
            "gain": [value[variant, seed] - value[BASE, seed] for seed in seeds],
            "photo_error": float(np.mean(gains, axis=0).std(ddof=1)),
            **by_set,
        }
    return result


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Variants with mAP and gain by seed, photo_error, photos, base and retrained → their mean mAP and gain,
    low, high, detectable and verdict (gain, loss or inconclusive).

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
        verdict=np.select([gain > reach, gain < -reach], ["gain", "loss"], "inconclusive"),
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
