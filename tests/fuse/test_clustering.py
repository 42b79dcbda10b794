"""Association: which cars of several tables are one."""

import numpy as np
import pandas as pd
import pytest

from carpose.fuse.clustering import cluster
from carpose.fuse.combine import nearness_of_stronger_car


def directions(rng, count, spread):
    """Unit vectors about the camera's axis."""
    drawn = rng.normal([0, 0, 1], spread, (count, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_a_cluster_holds_one_car_of_a_member_and_cars_of_one_image():
    rng = np.random.default_rng(2)
    n = 600
    image, member = rng.integers(0, 20, n), rng.integers(0, 5, n)
    direction = directions(rng, n, 0.02)
    tolerance = np.full(n, 0.05)
    labels = cluster(image, member, direction, rng.normal(3, 0.05, n), tolerance, tolerance, rng.random(n))
    assert labels.min() == 0 and set(labels) == set(range(labels.max() + 1))
    assert not pd.DataFrame({"label": labels, "member": member}).duplicated().any()
    assert pd.Series(image).groupby(labels).nunique().max() == 1
    assert labels.max() + 1 < 300  # and cars do come together


def literal_cluster(image, member, direction, log_range, along, across, priority, recentre):
    """What carpose.fuse.clustering.cluster says it does, a car at a time → the sets of cars."""

    def take(seed, free, towards, log, along2, across2):
        best = {}
        for j in free:
            apart = (log_range[j] - log) ** 2 / (along[j] ** 2 + along2)
            apart += ((direction[j] - towards) ** 2).sum() / (across[j] ** 2 + across2)
            if image[j] == image[seed] and member[j] != member[seed] and apart < 1:
                best[member[j]] = min(best.get(member[j], (np.inf, -1)), (apart, j))
        return [seed, *(j for _, j in best.values())]

    free, clusters = set(range(len(image))), set()
    while free:
        seed = max(free, key=lambda j: priority[j])
        taken = take(seed, free, direction[seed], log_range[seed], along[seed] ** 2, across[seed] ** 2)
        if recentre:
            towards = direction[taken].sum(axis=0)
            log = np.average(log_range[taken], weights=along[taken] ** -2)
            along2, across2 = 1 / (along[taken] ** -2).mean(), (across[taken] ** 2).mean()
            taken = take(seed, free, towards / np.linalg.norm(towards), log, along2, across2)
        clusters.add(frozenset(taken))
        free -= set(taken)
    return clusters


@pytest.mark.parametrize("recentre", [True, False])
@pytest.mark.parametrize("spread", [0.03, 0.3, 1.0])  # of the directions, radians: crowded to sparse
def test_clusters_are_those_of_a_loop_over_cars(spread, recentre):
    rng = np.random.default_rng(4)
    n = 250
    image, member = rng.integers(0, 4, n), rng.integers(0, 5, n)
    direction = directions(rng, n, spread)  # some behind the camera
    log_range, along, across = rng.normal(3, 0.2, n), rng.uniform(0.01, 0.3, n), rng.uniform(0.005, 0.1, n)
    given = image, member, direction, log_range, along, across, rng.random(n), recentre
    labels = cluster(*given)
    clusters = {frozenset(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)}
    assert clusters == literal_cluster(*given)
    assert len(clusters) < n


def test_nearness_of_the_nearest_stronger_car_of_the_image():
    rng = np.random.default_rng(5)
    n = 300
    image, log_range = rng.integers(0, 6, n), rng.normal(3, 0.2, n)
    direction = directions(rng, n, 0.1)
    strength = rng.random(n).round(1)  # of two that are alike the first is the stronger
    position, expected = direction * np.exp(log_range)[:, None], np.zeros(n)
    for i in range(n):
        for j in range(n):
            if image[i] == image[j] and (-strength[j], j) < (-strength[i], i):
                apart = np.linalg.norm(position[i] - position[j]) / np.exp(log_range[i])
                expected[i] = max(expected[i], 1 - apart / 0.1)
    assert (expected > 0).sum() > 50
    np.testing.assert_allclose(
        nearness_of_stronger_car(image, direction, log_range, strength), expected, atol=1e-12
    )
