"""The metric of resampled photos: how much a score would vary with other photos of the same kind."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .score import average_precision, match


def draw_images(images: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples, images): how often each image is drawn when as many are drawn with replacement."""
    return rng.multinomial(images, np.full(images, 1 / images), samples)


def resampled(
    truth: pd.DataFrame, predictions: pd.DataFrame, image_ids: Sequence[str], picks: np.ndarray
) -> np.ndarray:
    """mAP of each resample of the images, (samples,); cars of other images are ignored.

    picks (samples, len(image_ids)): how often each image is drawn. The same picks for two tables of
    predictions make their values paired.
    """
    ids = pd.Index(image_ids)
    truth, predictions = (table[table["ImageId"].isin(ids)] for table in (truth, predictions))
    hits, scores = match(truth, predictions), predictions["score"].to_numpy(float)
    # Matching goes image by image, so that it need not be repeated; sorted once, it is sorted ever after.
    order = np.argsort(-scores, kind="stable")
    hits, scores, owner = hits[order], scores[order], ids.get_indexer(predictions["ImageId"])[order]
    truths = picks @ np.bincount(ids.get_indexer(truth["ImageId"]), minlength=len(ids))
    values = []
    for pick, number in zip(picks, truths, strict=True):
        rows = np.repeat(np.arange(len(owner)), pick[owner])
        values.append(average_precision(hits[rows], scores[rows], number).mean())
    return np.array(values)
