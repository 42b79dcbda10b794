"""Runs in sorted numbers: what lies between two bounds, and the how many-th of its run each is.

Two searches find all near pairs of many sets at once, without a look at every pair.
"""

import numpy as np


def between(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) sorted places, (M,) bounds → (P,) row of a pair of bounds, ascending, and (P,) index of a place.

    Every place with low ≤ place < high, in the order of the places.
    """
    first = np.searchsorted(places, low)
    number = np.maximum(np.searchsorted(places, high) - first, 0)
    row = np.repeat(np.arange(len(number)), number)
    return row, first[row] + rank(row)


def rank(sorted_keys: np.ndarray) -> np.ndarray:
    """Sorted keys ≥ 0 → position of each within its run of equal keys."""
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    return np.arange(len(sorted_keys)) - np.repeat(starts, np.diff(starts, append=len(sorted_keys)))
