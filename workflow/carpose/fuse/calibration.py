"""From features or scores to probabilities: ridge logistic regression, and score thresholds by precision.

In: arrays of features or scores, and of hits. Out: a model, ready for JSON; thresholds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression


@dataclass(frozen=True)
class Logistic:
    """A logistic regression: the probability's logit is the intercept plus the coefficients times the
    features, standardised by mean and scale."""

    mean: list[float]
    scale: list[float]
    coefficients: list[float]
    intercept: float

    @classmethod
    def from_json(cls, content: dict) -> "Logistic":
        """Raises TypeError or ValueError where a number is missing or invalid."""
        model = cls(**content)
        for name in ("mean", "scale", "coefficients"):
            check_numbers(name, content[name], (len(model.mean),))
        check_numbers("intercept", model.intercept, ())
        if min(model.scale, default=1) <= 0:
            raise ValueError(f"scale: {model.scale}")
        return model

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, F) → (N,) probabilities."""
        standard = (features - np.array(self.mean)) / np.array(self.scale)
        return sigmoid(standard @ np.array(self.coefficients) + self.intercept)


def check_numbers(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises TypeError or ValueError where a value is not an array of finite numbers of this shape."""
    numbers = np.array(value, float)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"{name}: {value}")


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1−p)), with p clipped to 0.01 … 0.99 so that a single score cannot outweigh all others."""
    probability = np.clip(probability, 0.01, 0.99)
    return np.log(probability / (1 - probability))


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -30, 30)))


def fit_logistic(features: np.ndarray, target: np.ndarray, ridge: float = 3.0, steps: int = 25) -> Logistic:
    """Logistic regression by Newton's method.

    features (N, F); target (N,) in 0 … 1, fractions included; ridge: L2 penalty on the coefficients of the
    standardised features, in units of observations; steps: at most so many. A constant feature gets the
    coefficient 0. Half a hit and half a miss are added, so that the model stays finite without any hit and
    without any data.
    """
    features = np.asarray(features, float)
    mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
    scale = features.std(axis=0) if len(features) else np.ones(features.shape[1])
    varies = scale > 1e-9
    scale = np.where(varies, scale, 1.0)
    design = np.column_stack([np.ones(len(features)), (features - mean) / scale * varies])
    design = np.vstack([design, np.zeros((2, design.shape[1]))])
    design[-2:, 0] = 1
    target = np.append(target, [0.0, 1.0])
    sample_weight = np.append(np.ones(len(features)), [0.5, 0.5])
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-6
    coefficients = np.zeros(design.shape[1])
    for _ in range(steps):
        probability = sigmoid(design @ coefficients)
        gradient = design.T @ (sample_weight * (target - probability)) - penalty * coefficients
        curvature = sample_weight * np.maximum(probability * (1 - probability), 1e-6)
        step = np.linalg.solve((design.T * curvature) @ design + np.diag(penalty), gradient)
        coefficients += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-6:
            break
    return Logistic(mean.tolist(), scale.tolist(), coefficients[1:].tolist(), float(coefficients[0]))


def threshold_for_precision(scores: np.ndarray, hits: np.ndarray, target: float, at_least: float) -> float:
    """The lowest score such that at least a share `target` of the cars from it on are hits.

    scores (N,), hits (N,) bool. at_least: share of the cars (0–1) that a threshold must keep, since the
    precision of a few cars is chance; where no threshold reaches the target, it keeps just that share.
    Without cars it is 1.
    """
    if not len(scores):
        return 1.0
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    least = min(max(int(np.ceil(at_least * len(order))), 1), len(order)) - 1
    reached = np.flatnonzero(precision >= target)
    reached = reached[reached >= least]
    return float(scores[order[reached[-1] if len(reached) else least]])


def threshold_for_probability(scores: np.ndarray, hits: np.ndarray, target: float) -> float:
    """The lowest score at which the single car is a hit with probability `target` (isotonic regression).

    scores (N,), hits (N,) bool. ∞ where no car is that probable; 1 without cars.
    """
    if not len(scores):
        return 1.0
    order = np.argsort(scores, kind="stable")
    probability = isotonic_regression(hits[order].astype(float)).x
    reached = np.flatnonzero(probability >= target)
    return float(scores[order[reached[0]]]) if len(reached) else float("inf")
