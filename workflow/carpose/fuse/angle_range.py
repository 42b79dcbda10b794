"""Which of −π and π an angle is written near, which only the leaderboard's metric sees
(carpose.metric.score).

As arctan2 gives them, the rolls of upright cars lie near −π or π, and so do the yaws of oncoming cars. A few
hundredths of a radian decide on which side a label lies. Pairs of fused and true cars are used to learn which
side that is, from the car's own angle and those of the photo's other cars.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .calibration import Logistic, fit_logistic

NEAR = np.pi / 2  # radians from ±π within which both sides are considered
ANGLES = ["roll", "yaw"]


@dataclass(frozen=True)
class AngleRange:
    """For roll and yaw, a model of the probability that the label's angle is positive."""

    roll: Logistic
    yaw: Logistic

    @classmethod
    def from_json(cls, content: dict) -> "AngleRange":
        """Raises KeyError, TypeError or ValueError where a model is missing or invalid."""
        return cls(**{angle: Logistic.from_json(content[angle]) for angle in ANGLES})

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """The same cars and rotations; each angle near ±π is written on the more probable side.

        Angles are radians and can then lie outside −π … π.
        """
        table = table.copy()
        for angle in ANGLES:
            beyond, near, features = _features(table, angle)
            side = np.where(getattr(self, angle).predict(features) > 0.5, np.pi, -np.pi)
            table[angle] = np.where(near, side + beyond, table[angle])
        return table


def fit_angle_range(table: pd.DataFrame, true: pd.DataFrame, rows: np.ndarray) -> AngleRange:
    """table: fused cars; rows: (P,) those of its rows that are paired with a true car; true: these P true
    cars, with the angles as labelled."""
    models = {}
    for angle in ANGLES:
        _, near, features = _features(table, angle)
        models[angle] = fit_logistic(features[rows][near[rows]], true[angle].to_numpy()[near[rows]] > 0)
    return AngleRange(**models)


def _features(table: pd.DataFrame, angle: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) radians by which an angle lies beyond π (negative: before it), (N,) bool whether it is near π, and
    (N, 3) features: these radians, and for this and the other angle their mean over the photo's cars near π,
    weighted by score."""
    beyond = {name: table[name].to_numpy(float) % (2 * np.pi) - np.pi for name in ANGLES}
    other_angle = ANGLES[1 - ANGLES.index(angle)]
    photo = pd.factorize(table["ImageId"])[0]

    def mean_of_photo(name: str) -> np.ndarray:
        near = np.abs(beyond[name]) < NEAR
        weight = np.where(near, table["score"].to_numpy(float), 0.0)
        sums = [np.bincount(photo, values) for values in (weight * beyond[name], weight)]
        return (sums[0] / (sums[1] + 1e-3))[photo]

    near = np.abs(beyond[angle]) < NEAR
    return (
        beyond[angle],
        near,
        np.column_stack([beyond[angle], mean_of_photo(angle), mean_of_photo(other_angle)]),
    )
