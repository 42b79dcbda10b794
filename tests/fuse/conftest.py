"""What tests of the fusion share: made-up truth and three members' views of it."""

import numpy as np
import pytest

from carpose import metric
from tests.helpers import folds_of, noisy_view, scene


def value(truth, table, mode="given"):
    return metric.evaluate(truth, table, truth["ImageId"].unique(), mode)["mAP"]


def value_by_folds(truth, table):
    return metric.evaluate_folds(truth, table, folds_of(truth, 2))


@pytest.fixture(scope="module")
def truth():
    return scene(80, np.random.default_rng(0))


@pytest.fixture(scope="module")
def views(truth):
    rng = np.random.default_rng(1)
    return {name: noisy_view(truth, rng, aside=0.004) for name in "abc"}
