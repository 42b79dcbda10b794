"""Range search in sorted numbers, against a comparison of all pairs."""

import numpy as np

from carpose.core import pair_search


def test_between_agrees_with_a_comparison_of_all_pairs():
    rng = np.random.default_rng(0)
    values = np.sort(rng.normal(size=50).round(1))  # many are equal
    low = rng.normal(size=30).round(1)
    high = low + rng.uniform(-0.5, 1, 30).round(1)  # some intervals are empty, some have low > high
    low[3] = high[3] = np.nan
    expected = np.nonzero((values >= low[:, None]) & (values < high[:, None]))
    np.testing.assert_array_equal(pair_search.between(values, low, high), expected)


def test_pairs_in_range_agree_with_a_comparison_of_all_pairs():
    rng = np.random.default_rng(1)
    image, log_range = rng.integers(-1, 4, 60), rng.normal(3, 0.3, 60)
    others, other_log_range = rng.integers(0, 4, 80), rng.normal(3, 0.3, 80)
    apart = np.abs(np.exp(log_range)[:, None] / np.exp(other_log_range) - 1)
    expected = np.argwhere((image[:, None] == others) & (apart < 0.1))
    pairs = np.column_stack(pair_search.pairs_in_range(image, log_range, others, other_log_range, 0.1))
    assert len(expected) > 50 and np.all(np.diff(pairs[:, 0]) >= 0)
    assert set(map(tuple, pairs)) == set(map(tuple, expected))


def test_rank_starts_at_zero_in_every_run():
    assert pair_search.rank(np.array([0, 0, 3, 3, 3, 7])).tolist() == [0, 1, 0, 1, 2, 0]
    assert not len(pair_search.rank(np.array([], int)))
