"""Divide the training photos into folds; photos that look nearly the same stay together.

In: images.parquet (perceptual hashes) and labels.parquet. Out: folds.parquet (ImageId, fold, group).
"""

import hashlib

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

    groups: (N,) name of each image's group; cars_per_image: (N,) → (N,) fold 0…folds−1, which does not depend
    on the order of the images. Raises UserError where there are fewer groups than folds.

    Each group has a place in 0…1, a hash of the seed and its name. Groups with about as many cars per image
    stand in the order of their places and are spread evenly over 0…1, so that each fold gets its part of
    them; then all groups, in that order, are cut into folds of equally many images. An image more or less
    moves a few beside the cuts.
    """
    table = pd.DataFrame({"group": groups, "cars": cars_per_image, "images": 1})
    table = table.groupby("group")[["cars", "images"]].sum()
    if len(table) < folds:
        advice = "use fewer folds" if len(table) > 1 else "bring more photos that differ, or exclude fewer"
        raise UserError(f"{len(table)} groups of different photos cannot fill {folds} folds; {advice}")
    table["place"] = [place(name, seed) for name in table.index]
    table = table.sort_values("place")
    density = table["cars"] / table["images"]
    alike = table.groupby(np.rint(2 * np.log2(1 + density)))["place"]  # within a factor of √2
    table["place"] = (alike.cumcount() + table["place"]) / alike.transform("size")
    table = table.sort_values("place", kind="stable")
    middle = table["images"].cumsum() - table["images"] / 2
    fold = (folds * middle / table["images"].sum()).astype(int).to_numpy()
    # Large groups can leave a fold without any: each group is at most one fold beyond the group before it,
    # and the last groups fill the last folds.
    number = np.arange(len(table))
    fold = number + np.minimum.accumulate(np.minimum(fold - number, 0))
    table["fold"] = np.maximum(fold, folds - len(table) + number)
    return table["fold"].loc[groups].to_numpy()


def place(name: str, seed: int) -> float:
    """0 … 1, as good as drawn, and always the same for a name and a seed."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


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
    """Table of ImageId, fold and group of all used training images, by ImageId.

    images, labels: the tables of the check; distance: bits in which near-duplicates may differ. A group is
    named by the first of its images, excluded and test ones included: through such an image, too, two
    training images can be near-duplicates.
    """
    images = images.sort_values("ImageId", ignore_index=True)
    images = images[(images["excluded"] == "") | (images["phash"] != "")]  # an excluded one can be broken
    number = near_duplicates(hashes_of(images), distance)
    group = images.groupby(number)["ImageId"].transform("first")
    used = images.assign(group=group)[(images["split"] == "train") & (images["excluded"] == "")]
    cars_per_image = used["ImageId"].map(labels["ImageId"].value_counts()).fillna(0).to_numpy()
    used = used.assign(fold=split(used["group"].to_numpy(), cars_per_image, folds, seed))
    return used[["ImageId", "fold", "group"]].reset_index(drop=True)
