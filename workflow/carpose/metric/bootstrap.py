"""Bootstrap over photos: how much the metric would vary with other photos of the same kind."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .score import average_precision, match


def draw_images(images: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples, images) ints: how often each image is in a resample, drawn with replacement; each row sums to
    `images`."""
    return rng.multinomial(images, np.full(images, 1 / images), samples)


def resampled_scores(
    truth: pd.DataFrame, predictions: pd.DataFrame, image_ids: Sequence[str], picks: np.ndarray
) -> np.ndarray:
    """(samples,) mAP of each resample of the images; cars of other images are ignored.

    picks: (samples, len(image_ids)), of `draw_images`. The scores of two tables with the same picks are
    paired.
    """
    ids = pd.Index(image_ids)
    truth, predictions = (table[table["ImageId"].isin(ids)] for table in (truth, predictions))
    hits, scores = match(truth, predictions), predictions["score"].to_numpy(float)
    # Matching is done within each image, so one matching serves all resamples; so does one sorting.
    order = np.argsort(-scores, kind="stable")
    hits, scores, image = hits[order], scores[order], ids.get_indexer(predictions["ImageId"])[order]
    truths = picks @ np.bincount(ids.get_indexer(truth["ImageId"]), minlength=len(ids))
    maps = []
    for pick, count in zip(picks, truths, strict=True):
        rows = np.repeat(np.arange(len(image)), pick[image])
        maps.append(average_precision(hits[rows], scores[rows], count).mean())
    return np.array(maps)
