"""What lies between bounds in sorted numbers."""

import numpy as np

from carpose import runs


def test_between_is_what_a_look_at_all_pairs_finds():
    rng = np.random.default_rng(0)
    places = np.sort(rng.normal(size=50).round(1))  # many are equal
    low = rng.normal(size=30).round(1)
    high = low + rng.uniform(-0.5, 1, 30).round(1)  # some hold nothing, some are the wrong way round
    low[3] = high[3] = np.nan
    expected = np.nonzero((places >= low[:, None]) & (places < high[:, None]))
    np.testing.assert_array_equal(runs.between(places, low, high), expected)


def test_rank_counts_anew_in_every_run():
    assert runs.rank(np.array([0, 0, 3, 3, 3, 7])).tolist() == [0, 1, 0, 1, 2, 0]
    assert not len(runs.rank(np.array([], int)))
