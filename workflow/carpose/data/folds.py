"""Divide the training photos into folds; near-duplicate photos share a fold.

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
    """(N,) uint64 perceptual hashes → (N,) number of each photo's group.

    Photos whose hashes differ in at most `distance` bits share a group: the groups are the connected
    components of that graph.
    """
    pairs = [np.empty((2, 0), int)]
    for start in range(0, len(hashes), BLOCK):
        differing = np.bitwise_count(hashes[start : start + BLOCK, None] ^ hashes[None, start:])
        pairs.append(np.array(np.nonzero(differing <= distance)) + start)
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(hashes),) * 2)
    return connected_components(graph, directed=False)[1]


def split(groups: np.ndarray, cars_per_image: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Assign groups to folds so that images and cars are spread evenly.

    groups: (N,) name of each image's group; cars_per_image: (N,) → (N,) fold 0 … folds − 1, which does not
    depend on the order of the images. Raises UserError if there are fewer groups than folds.

    Each group gets a position in 0 … 1: a hash of the seed and its name. Groups with about the same number
    of cars per image are sorted by it and spaced evenly over 0 … 1, so that each fold gets its part of them.
    Then all groups, sorted by position, are divided into folds with equal numbers of images. Adding or
    removing an image moves only a few images near the borders.
    """
    table = pd.DataFrame({"group": groups, "cars": cars_per_image, "images": 1})
    table = table.groupby("group")[["cars", "images"]].sum()
    if len(table) < folds:
        advice = "use fewer folds" if len(table) > 1 else "add photos that differ, or exclude fewer"
        raise UserError(f"{len(table)} groups of different photos cannot fill {folds} folds; {advice}")
    table["position"] = [hash_to_unit(name, seed) for name in table.index]
    table = table.sort_values("position")
    density = table["cars"] / table["images"]
    similar_density = table.groupby(np.rint(2 * np.log2(1 + density)))["position"]  # within a factor of √2
    table["position"] = (similar_density.cumcount() + table["position"]) / similar_density.transform("size")
    table = table.sort_values("position", kind="stable")
    midpoint = table["images"].cumsum() - table["images"] / 2
    fold = (folds * midpoint / table["images"].sum()).astype(int).to_numpy()
    # Large groups could leave a fold empty. So the fold rises by at most one from group to group, and the
    # last groups fill the last folds.
    index = np.arange(len(table))
    fold = index + np.minimum.accumulate(np.minimum(fold - index, 0))
    table["fold"] = np.maximum(fold, folds - len(table) + index)
    return table["fold"].loc[groups].to_numpy()


def hash_to_unit(name: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) that depends on name and seed alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def parse_hashes(images: pd.DataFrame) -> np.ndarray:
    """The column `phash` as (N,) uint64. Raises UserError naming the first image with an invalid hash."""
    values = []
    for image_id, text in zip(images["ImageId"], images["phash"], strict=True):
        try:
            values.append(int(text, 16))
        except ValueError:
            raise UserError(f"image {image_id}: invalid hash {text!r}; rerun the rule check_data") from None
    return np.array(values, np.uint64)


def make_folds(
    images: pd.DataFrame, labels: pd.DataFrame, folds: int, seed: int, distance: int
) -> pd.DataFrame:
    """Table of ImageId, fold and group of all training images that are not excluded, sorted by ImageId.

    images, labels: the tables of carpose.kaggle check; distance: bits in which the hashes of near-duplicates
    may differ. A group has the name of its first image. Excluded and test images are grouped too, because
    two training images can be near-duplicates of one of them.
    """
    images = images.sort_values("ImageId", ignore_index=True)
    images = images[
        (images["excluded"] == "") | (images["phash"] != "")
    ]  # an excluded photo may be unreadable and have no hash
    component = near_duplicates(parse_hashes(images), distance)
    group = images.groupby(component)["ImageId"].transform("first")
    used = images.assign(group=group)[(images["split"] == "train") & (images["excluded"] == "")]
    cars_per_image = used["ImageId"].map(labels["ImageId"].value_counts()).fillna(0).to_numpy()
    used = used.assign(fold=split(used["group"].to_numpy(), cars_per_image, folds, seed))
    return used[["ImageId", "fold", "group"]].reset_index(drop=True)
