"""Scores to probabilities, and thresholds."""

import subprocess
import sys

import numpy as np
import pytest

from carpose.fuse import calibration
from tests.helpers import ENVIRONMENT

FIT = """
from carpose.fuse.calibration import fit_logistic
import numpy as np
rng = np.random.default_rng(0)
print(fit_logistic(rng.normal(size=(50000, 24)), rng.random(50000)))
"""


def test_logistic_finds_the_law():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(20000, 2))
    probability = calibration.sigmoid(1 + 2 * features[:, 0])
    model = calibration.fit_logistic(features, (rng.random(20000) < probability).astype(float))
    assert np.abs(model.predict(features) - probability).max() < 0.05


@pytest.mark.parametrize("target", [np.zeros(5), np.ones(5), np.zeros(0)])
def test_logistic_without_contrast_stays_finite(target):
    model = calibration.fit_logistic(np.ones((len(target), 3)), target)
    assert np.isfinite(model.predict(np.ones((2, 3)))).all()


def test_thresholds():
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False])
    assert calibration.threshold_for_precision(scores, hits, 0.6, 0.25) == 0.7
    assert calibration.threshold_for_precision(scores, ~hits, 0.9, 0.25) == 0.9  # the highest quarter
    assert calibration.threshold_for_probability(scores, hits, 0.5) == 0.8
    assert calibration.threshold_for_probability(scores, hits & False, 0.5) == np.inf


def test_the_same_bytes_whatever_the_threads_of_linear_algebra():
    """As a user's shell or a cluster sets them; with one core there is no difference to see."""
    fits = [
        subprocess.run(
            [sys.executable, "-c", FIT],
            env=ENVIRONMENT | {f"{name}_NUM_THREADS": count for name in ("OPENBLAS", "MKL", "OMP")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for count in "12"
    ]
    assert fits[0] == fits[1] and "coefficients" in fits[0]
