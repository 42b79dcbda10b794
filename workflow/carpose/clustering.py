"""Which cars of several tables are the same car: one vectorised pass over all images at once.

In: rays (unit direction and log of the range), tolerances and priorities of the cars of all members.
Out: a cluster number per car, at most one car of each member in a cluster.
"""

import numpy as np
import pandas as pd

from . import cars


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
    labels = np.full(len(image), -1)
    active = np.lexsort((-priority, image))
    members = int(member.max(initial=0)) + 1
    direction, features = np.asarray(direction, float), (log_range, along**2, across**2)
    count = 0
    while len(active):
        first = np.diff(image[active], prepend=-1) != 0
        run = np.cumsum(first) - 1  # the how many-th image of those still active
        own = [feature[active] for feature in features]
        centre = direction[active[first]], *(feature[first] for feature in own)
        where = active, run, member, members, direction, own, first
        taken = _nearest_of_each_member(centre, *where)
        if recentre:
            centre = _mean(active[taken], run[taken], len(centre[0]), direction, features)
            taken = _nearest_of_each_member(centre, *where)
        labels[active[taken]] = count + run[taken]
        count += len(centre[0])
        free = np.ones(len(active), bool)
        free[taken] = False
        active = active[free]
    return labels


def _nearest_of_each_member(centre, active, run, member, members, direction, own, seed):
    """Positions in `active` of what the centre of each run takes; a seed always takes itself."""
    log_range, along2, across2 = own
    squared = (log_range - centre[1][run]) ** 2 / (along2 + centre[2][run])
    near = np.flatnonzero((squared < 1) | seed)
    to = run[near]
    off = direction[active[near]] - centre[0][to]
    squared = squared[near] + np.einsum("ij,ij->i", off, off) / (across2[near] + centre[3][to])
    squared[seed[near]] = -1
    within = squared < 1
    near, squared = near[within], squared[within]
    key = run[near] * members + member[active[near]]
    order = np.lexsort((squared, key))
    return near[order[np.diff(key[order], prepend=-1) != 0]]


def _mean(chosen, run, count, direction, features):
    """Mean direction, mean log-range (by precision) and mean squared tolerances of each run."""
    log_range, along2, across2 = (feature[chosen] for feature in features)

    def total(values):
        return np.bincount(run, values, count)

    number = total(np.ones(len(run)))
    towards = np.stack([total(direction[chosen, axis]) for axis in range(3)], axis=1)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    precision = total(1 / along2)
    return towards, total(log_range / along2) / precision, number / precision, total(across2) / number
