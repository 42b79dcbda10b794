"""Which cars of several tables are the same car: one vectorised pass over all images at once.

In: rays (unit direction and log of the range), tolerances and priorities of the cars of all members.
Out: a cluster number per car, at most one car of each member in a cluster.
"""

import numpy as np
import pandas as pd

from carpose.core import cars, pair_search


def rays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Table of N cars → (N, 3) unit direction from the camera, (N,) log of the range in metres.

    For small differences Δdirection² + Δlog-range² is (‖p−q‖/‖p‖)², the metric's own distance squared;
    depth errs along the ray and leaves the direction as it is.
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

    In each image the free car of highest priority is a seed and takes the nearest car of each other
    member within the gate: Δlog-range²/(along² + along²) + Δdirection²/(across² + across²) < 1, the sums
    over the two cars. With `recentre` it is done again around the mean of what was taken. Then the next
    seed; all images go in step.

    image, member: ints ≥ 0; direction (N, 3); along: tolerance in log-range; across: in radians;
    priority: larger is seeded earlier.
    """
    # Sorted by image (4 apart) and the direction's x: what a centre may take follows one another.
    place = 4 * image + direction[:, 0]
    line = np.lexsort((-priority, place))
    waiting = np.argsort(line)[np.lexsort((-priority, image))]
    image, member, place = image[line], member[line], place[line]
    features = direction, log_range, along2, across2 = [
        feature[line] for feature in (direction, log_range, along**2, across**2)
    ]
    members = member.max(initial=0) + 1
    widest = np.zeros(image.max(initial=-1) + 1)
    np.maximum.at(widest, image, across2)

    def take(seed, centre):
        """What each seed's centre takes: the seed itself and the nearest free car of each other member.

        Returns the cars and the number of the seed that takes each, by seed and member.
        """
        towards, log, deep2, wide2 = centre
        reach = np.sqrt(wide2 + widest[image[seed]]) + 1e-6
        middle = 4 * image[seed] + towards[:, 0]
        to, near = pair_search.between(place, middle - reach, middle + reach)
        squared = (log_range[near] - log[to]) ** 2 / (along2[near] + deep2[to])
        keep = np.flatnonzero(free[near] & (squared < 1))
        to, near, squared = to[keep], near[keep], squared[keep]
        off = direction[near] - towards[to]
        squared += np.einsum("ij,ij->i", off, off) / (across2[near] + wide2[to])
        keep = np.flatnonzero(squared < 1)
        to, near = np.append(to[keep], np.arange(len(seed))), np.append(near[keep], seed)
        squared = np.append(squared[keep], np.full(len(seed), -1.0))
        key = to * members + member[near]
        order = np.lexsort((squared, key))
        order = order[np.diff(key[order], prepend=-1) != 0]
        return near[order], to[order]

    labels, free = np.full(len(image), -1), np.ones(len(image), bool)
    count = 0
    while len(waiting):
        seed = waiting[np.diff(image[waiting], prepend=-1) != 0]
        taken, to = take(seed, [feature[seed] for feature in features])
        if recentre:
            taken, to = take(seed, _mean([feature[taken] for feature in features], to, len(seed)))
        labels[line[taken]] = count + to
        count += len(seed)
        free[taken] = False
        waiting = waiting[free[waiting]]
    return labels


def _mean(features, to, count):
    """Mean direction, mean log-range (by precision) and mean squared tolerances of each centre's cars."""
    direction, log_range, along2, across2 = features

    def total(values):
        return np.bincount(to, values, count)

    number = total(np.ones(len(to)))
    towards = np.stack([total(direction[:, axis]) for axis in range(3)], axis=1)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    precision = total(1 / along2)
    return towards, total(log_range / along2) / precision, number / precision, total(across2) / number
