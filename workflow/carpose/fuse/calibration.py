"""From features or scores to probabilities: ridge logistic regression and precision by score.

In: arrays of features or scores and what came true. Out: a model, ready for JSON, and floats.
"""

from dataclasses import dataclass

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

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, F) → (N,) probabilities."""
        standard = (features - np.array(self.mean)) / np.array(self.scale)
        return sigmoid(standard @ np.array(self.coefficients) + self.intercept)


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1−p)), with p kept within 0.01 … 0.99: one score must not outweigh everything."""
    probability = np.clip(probability, 0.01, 0.99)
    return np.log(probability / (1 - probability))


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -30, 30)))


def fit_logistic(features: np.ndarray, target: np.ndarray, ridge: float = 3.0, steps: int = 25) -> Logistic:
    """Logistic regression by Newton's method.

    features (N, F); target (N,) in 0 … 1 (shares are welcome); ridge: penalty on the coefficients of the
    standardised features, in units of observations; features that never vary get none.
    Half a hit and half a miss are added, so that data without any hit, or no data at all, stay finite.
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
    """The lowest score above which a share of at least `target` are hits.

    at_least: share of the cars (0–1) that must lie above a threshold for it to count, since the precision of
    a few is chance; where none reaches the target, it is that share of the highest scores. Without cars it
    is 1.
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
    """The lowest score at which a car is itself a hit with probability `target` (isotonic regression).

    Above all scores (∞) where none is that sure.
    """
    if not len(scores):
        return 1.0
    order = np.argsort(scores, kind="stable")
    probability = isotonic_regression(hits[order].astype(float)).x
    sure = np.flatnonzero(probability >= target)
    return float(scores[order[sure[0]]]) if len(sure) else float("inf")
