"""Range search in sorted numbers.

Finds all pairs of cars at a similar distance, in all images at once, without comparing every pair.
"""

import numpy as np


def between(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) sorted values, (M,) lower and upper bounds → (P,) index of the bounds, ascending, and (P,) index
    of the value, for every low ≤ value < high.
    """
    first = np.searchsorted(values, low)
    count = np.maximum(np.searchsorted(values, high) - first, 0)
    interval = np.repeat(np.arange(len(count)), count)
    return interval, first[interval] + rank(interval)


def pairs_in_range(
    image: np.ndarray,
    log_range: np.ndarray,
    others_image: np.ndarray,
    others_log_range: np.ndarray,
    share: float,
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a car and one of the others in the same image whose distances from the camera differ by at
    most `share` of the other's distance.

    image: (N,) ints ≥ 0, or −1 for a car that has no pair; log_range: (N,) log of the distance in metres,
    between −40 and 40; others_…: (M,) the same. → (P,) index of the car, ascending, (P,) index of the other.
    """
    # One key for image and distance: images are 100 apart, so that one search finds the pairs of all images.
    # 1e-6 allows for rounding.
    others_key = 100 * others_image + others_log_range
    order = np.argsort(others_key, kind="stable")
    key = 100 * image + log_range
    car, index = between(others_key[order], key - np.log1p(share) - 1e-6, key - np.log1p(-share) + 1e-6)
    return car, order[index]


def rank(sorted_keys: np.ndarray) -> np.ndarray:
    """(N,) sorted keys ≥ 0 → (N,) position of each within its run of equal keys, from 0."""
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    return np.arange(len(sorted_keys)) - np.repeat(starts, np.diff(starts, append=len(sorted_keys)))
