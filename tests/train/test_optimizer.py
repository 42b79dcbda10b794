"""The learning rate at every step."""

import numpy as np
import pytest

from carpose.config.recipe import Recipe
from carpose.train.optimizer import rate_schedule, scaled_rate


def test_learning_rate_rises_then_falls():
    rates = [*map(rate_schedule("cosine", 100, 1.0, 0.1), range(100))]
    assert rates[9] == pytest.approx(1.0) and rates[0] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.02


@pytest.mark.parametrize("name", ["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"])
def test_schedules_of_timm(name):
    """Never rising after the warm-up, and the same for a training that goes on in the middle."""
    rates = [*map(rate_schedule(name, 200, 0.01, 0.1), range(200))]
    assert max(rates) == pytest.approx(0.01) and (np.diff(rates[20:]) <= 0).all()
    assert rates[-1] < 0.0011 or name == "constant"
    assert rate_schedule(name, 200, 0.01, 0.1)(150) == rates[150]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_learning_rate_follows_the_batch(scaling, factor):
    recipe = Recipe(batch_size=32, lr_batch_size=8, lr_scaling=scaling, lr=0.001)
    assert scaled_rate(recipe) == pytest.approx(0.001 * factor)
