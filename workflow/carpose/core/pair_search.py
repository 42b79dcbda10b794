"""Runs in sorted numbers: what lies between two bounds, and the rank of each within its run.

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


def pairs_in_range(
    image: np.ndarray,
    log_range: np.ndarray,
    others_image: np.ndarray,
    others_log_range: np.ndarray,
    share: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Cars (N,) and others (M,) → (P,) a car, ascending, and (P,) one of the others, of the same image, whose
    distance from the camera differs from the car's by at most `share` of its own.

    So all are found that are nearer to the car than that. Images are ints ≥ 0, of a car also −1, whose
    image no other is in; logarithms of distances between −40 and 40.
    """
    # With the logarithms on one line, images 100 apart, one search finds those of all (1e-6 for rounding).
    place = 100 * others_image + others_log_range
    line = np.argsort(place, kind="stable")
    middle = 100 * image + log_range
    car, at = between(place[line], middle - np.log1p(share) - 1e-6, middle - np.log1p(-share) + 1e-6)
    return car, line[at]


def rank(sorted_keys: np.ndarray) -> np.ndarray:
    """Sorted keys ≥ 0 → position of each within its run of equal keys."""
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    return np.arange(len(sorted_keys)) - np.repeat(starts, np.diff(starts, append=len(sorted_keys)))
