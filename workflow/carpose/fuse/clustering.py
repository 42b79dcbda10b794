"""Which cars of several members are the same car, for all images at once.

In: rays (unit direction and log of the range), tolerances and priorities of the cars of all members.
Out: a cluster number per car, at most one car of each member in a cluster.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from carpose.core import cars, pair_search


def rays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Table of N cars → (N, 3) unit direction from the camera, (N,) log of the range in metres.

    For small differences Δdirection² + Δlog-range² is (‖p−q‖/‖p‖)², the metric's relative distance squared.
    An error of depth changes the log-range only.
    """
    position = table[cars.POSITION].to_numpy(float)
    distance = np.maximum(np.linalg.norm(position, axis=1), 1e-6)
    return position / distance[:, None], np.log(distance)


def cluster(
    image: np.ndarray,
    member: np.ndarray,
    direction: np.ndarray,
    log_range: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    priority: np.ndarray,
    recentre: bool = True,
) -> np.ndarray:
    """(N,) cluster numbers 0 … C−1.

    In each image the free car of highest priority is a seed and takes the nearest free car of each other
    member within the gate: Δlog-range²/(along² + along²) + Δdirection²/(across² + across²) < 1, the sums
    over the two cars. With `recentre` this is repeated around the mean of the cars taken. Then follows the
    next seed; all images are processed at once.

    image, member: (N,) ints ≥ 0; direction: (N, 3) unit vectors; log_range: (N,), metres; along: (N,)
    tolerance in log-range; across: (N,) in radians; priority: (N,), larger is seeded earlier.
    """
    # Sorted by image (4 apart) and the direction's x, so that a centre's candidates are contiguous.
    sort_key = 4 * image + direction[:, 0]
    order = np.lexsort((-priority, sort_key))
    waiting = np.argsort(order)[np.lexsort((-priority, image))]
    image, member, sort_key = image[order], member[order], sort_key[order]
    features = direction, log_range, along2, across2 = [
        feature[order] for feature in (direction, log_range, along**2, across**2)
    ]
    members = member.max(initial=0) + 1
    widest = np.zeros(image.max(initial=-1) + 1)
    np.maximum.at(widest, image, across2)

    def take(seed: np.ndarray, centre: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The seed itself and the nearest free car of each other member within the gate around each centre.

        seed: (S,) a car of each image; centre: its direction, log-range and squared tolerances. Returns the
        cars and for each the index of its seed, ordered by seed and member.
        """
        centre_direction, centre_log_range, centre_along2, centre_across2 = centre
        reach = np.sqrt(centre_across2 + widest[image[seed]]) + 1e-6
        centre_key = 4 * image[seed] + centre_direction[:, 0]
        seed_index, car = pair_search.between(sort_key, centre_key - reach, centre_key + reach)
        squared = (log_range[car] - centre_log_range[seed_index]) ** 2
        squared /= along2[car] + centre_along2[seed_index]
        keep = np.flatnonzero(free[car] & (squared < 1))
        seed_index, car, squared = seed_index[keep], car[keep], squared[keep]
        offset = direction[car] - centre_direction[seed_index]
        squared += np.einsum("ij,ij->i", offset, offset) / (across2[car] + centre_across2[seed_index])
        keep = np.flatnonzero(squared < 1)
        seed_index, car = np.append(seed_index[keep], np.arange(len(seed))), np.append(car[keep], seed)
        squared = np.append(squared[keep], np.full(len(seed), -1.0))
        seed_and_member = seed_index * members + member[car]
        by_distance = np.lexsort((squared, seed_and_member))
        nearest = by_distance[np.diff(seed_and_member[by_distance], prepend=-1) != 0]
        return car[nearest], seed_index[nearest]

    labels, free = np.full(len(image), -1), np.ones(len(image), bool)
    count = 0
    while len(waiting):
        seed = waiting[np.diff(image[waiting], prepend=-1) != 0]
        car, seed_index = take(seed, [feature[seed] for feature in features])
        if recentre:
            car, seed_index = take(seed, _mean([feature[car] for feature in features], seed_index, len(seed)))
        labels[order[car]] = count + seed_index
        count += len(seed)
        free[car] = False
        waiting = waiting[free[waiting]]
    return labels


def _mean(
    features: Sequence[np.ndarray], seed_index: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean direction, mean log-range (by precision) and mean squared tolerances of each seed's cars."""
    direction, log_range, along2, across2 = features

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(seed_index, values, count)

    number = total(np.ones(len(seed_index)))
    mean_direction = np.stack([total(direction[:, axis]) for axis in range(3)], axis=1)
    mean_direction /= np.linalg.norm(mean_direction, axis=1, keepdims=True)
    precision = total(1 / along2)
    return mean_direction, total(log_range / along2) / precision, number / precision, total(across2) / number
