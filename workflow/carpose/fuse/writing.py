"""In which of its 2π ranges an angle is written, which the leaderboard's metric sees (carpose.metric.score).

Written as arctan2 gives them, the rolls of upright cars lie near −π or π, and so do the yaws of oncoming
cars. Which of the two a label says depends on a few hundredths of a radian. It is learnt from pairs of fused
and true cars what a label would say, by the angle itself and by those of the photo's other cars.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .calibration import Logistic, fit_logistic

NEAR = np.pi / 2  # radians from ±π within which the side is in doubt at all
ANGLES = ["roll", "yaw"]


@dataclass(frozen=True)
class Writing:
    """Models of the probability that a label's angle is positive."""

    roll: Logistic
    yaw: Logistic

    @classmethod
    def from_json(cls, content: dict) -> "Writing":
        """Raises KeyError or TypeError where it is none."""
        return cls(**{angle: Logistic(**content[angle]) for angle in ANGLES})

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """The same cars, each angle near ±π written on the side that its label is more likely on."""
        table = table.copy()
        for angle in ANGLES:
            beyond, near, features = _seen(table, angle)
            side = np.where(getattr(self, angle).predict(features) > 0.5, np.pi, -np.pi)
            table[angle] = np.where(near, side + beyond, table[angle])
        return table


def fit_writing(table: pd.DataFrame, true: pd.DataFrame, rows: np.ndarray) -> Writing:
    """table: fused cars; true: the true cars, their angles as the labels have them, that `rows` of it see."""
    models = {}
    for angle in ANGLES:
        _, near, features = _seen(table, angle)
        models[angle] = fit_logistic(features[rows][near[rows]], true[angle].to_numpy()[near[rows]] > 0)
    return Writing(**models)


def _seen(table: pd.DataFrame, angle: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) radians by which an angle lies beyond π (negative: before it), (N,) whether it is near, and the
    features (N, 3): that, its mean over the photo's cars weighted by score, and the other angle's."""
    turns = {name: table[name].to_numpy(float) % (2 * np.pi) - np.pi for name in ANGLES}
    second = ANGLES[1 - ANGLES.index(angle)]
    photo = pd.factorize(table["ImageId"])[0]

    def mean(name):
        near = np.abs(turns[name]) < NEAR
        weight = np.where(near, table["score"].to_numpy(float), 0.0)
        sums = [np.bincount(photo, value) for value in (weight * turns[name], weight)]
        return (sums[0] / (sums[1] + 1e-3))[photo]

    near = np.abs(turns[angle]) < NEAR
    return turns[angle], near, np.column_stack([turns[angle], mean(angle), mean(second)])
