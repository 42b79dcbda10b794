"""Divide the training photos into folds; photos that look nearly the same stay together.

In: images.parquet (perceptual hashes) and labels.parquet. Out: folds.parquet (ImageId, fold).
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from carpose.core.errors import UserError

BLOCK = 512  # hashes compared with all others at a time: 25 MB at 6000 photos


def near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """(N,) uint64 perceptual hashes → (N,) group of each photo.

    Photos at most `distance` differing bits apart share a group, and so do chains of such photos.
    """
    pairs = [np.empty((2, 0), int)]
    for start in range(0, len(hashes), BLOCK):
        differing = np.bitwise_count(hashes[start : start + BLOCK, None] ^ hashes[None, start:])
        pairs.append(np.array(np.nonzero(differing <= distance)) + start)
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(hashes),) * 2)
    return connected_components(graph, directed=False)[1]


def split(groups: np.ndarray, cars_per_image: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Give whole groups to folds so that images and cars are spread evenly.

    groups, cars_per_image: (N,) → (N,) fold 0…folds−1. The largest group goes first, each to the fold
    where it adds least to Σ (share of images)² + (share of cars)²; the seed decides between equals.
    Raises UserError where there are fewer groups than folds.
    """
    sizes = np.column_stack([np.bincount(groups), np.bincount(groups, weights=cars_per_image)])
    if len(sizes) < folds:
        advice = "use fewer folds" if len(sizes) > 1 else "bring more photos that differ, or exclude fewer"
        raise UserError(f"{len(sizes)} groups of different photos cannot fill {folds} folds; {advice}")
    share = sizes / np.maximum(sizes.sum(axis=0), 1)
    shuffled = np.random.default_rng(seed).permutation(len(share))
    load = np.zeros((folds, 2))
    fold_of_group = np.empty(len(share), int)
    for group in shuffled[np.argsort(-share[shuffled].sum(axis=1), kind="stable")]:
        fold = np.argmin(load @ share[group])
        fold_of_group[group] = fold
        load[fold] += share[group]
    return fold_of_group[groups]


def hashes_of(images: pd.DataFrame) -> np.ndarray:
    """Perceptual hashes of the check's table as (N,) uint64. Raises UserError naming an image without one."""
    values = []
    for image_id, text in zip(images["ImageId"], images["phash"], strict=True):
        try:
            values.append(int(text, 16))
        except ValueError:
            raise UserError(
                f"image {image_id}: {text!r} is no hash; run the check of the data again"
            ) from None
    return np.array(values, np.uint64)


def make_folds(
    images: pd.DataFrame, labels: pd.DataFrame, folds: int, seed: int, distance: int
) -> pd.DataFrame:
    """Table of ImageId, fold and group (of near-duplicates) of all used training images.

    images, labels: the tables of the check; distance: bits in which near-duplicates may differ.
    """
    used = images[(images["split"] == "train") & (images["excluded"] == "")]
    groups = near_duplicates(hashes_of(used), distance)
    counts = used["ImageId"].map(labels["ImageId"].value_counts()).fillna(0).to_numpy()
    fold = split(groups, counts, folds, seed)
    return pd.DataFrame({"ImageId": used["ImageId"].to_numpy(), "fold": fold, "group": groups})
