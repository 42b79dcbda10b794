"""What lies between bounds in sorted numbers."""

import numpy as np

from carpose.core import pair_search


def test_between_is_what_a_look_at_all_pairs_finds():
    rng = np.random.default_rng(0)
    places = np.sort(rng.normal(size=50).round(1))  # many are equal
    low = rng.normal(size=30).round(1)
    high = low + rng.uniform(-0.5, 1, 30).round(1)  # some hold nothing, some are the wrong way round
    low[3] = high[3] = np.nan
    expected = np.nonzero((places >= low[:, None]) & (places < high[:, None]))
    np.testing.assert_array_equal(pair_search.between(places, low, high), expected)


def test_cars_of_like_distance_are_those_of_a_look_at_all_pairs():
    rng = np.random.default_rng(1)
    image, log_range = rng.integers(-1, 4, 60), rng.normal(3, 0.3, 60)
    others, other_log_range = rng.integers(0, 4, 80), rng.normal(3, 0.3, 80)
    apart = np.abs(np.exp(log_range)[:, None] / np.exp(other_log_range) - 1)
    expected = np.argwhere((image[:, None] == others) & (apart < 0.1))
    found = np.column_stack(pair_search.pairs_in_range(image, log_range, others, other_log_range, 0.1))
    assert len(expected) > 50 and np.all(np.diff(found[:, 0]) >= 0)
    assert set(map(tuple, found)) == set(map(tuple, expected))


def test_rank_counts_anew_in_every_run():
    assert pair_search.rank(np.array([0, 0, 3, 3, 3, 7])).tolist() == [0, 1, 0, 1, 2, 0]
    assert not len(pair_search.rank(np.array([], int)))
