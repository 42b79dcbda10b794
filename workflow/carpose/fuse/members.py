"""Fits how far each member's cars lie from the true ones.

In: true cars and tables of predictions by member. Out: a MemberFit of each.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from carpose.core import cars
from carpose.geometry import rotation

from .calibration import fit_logistic, logit
from .clustering import cluster, rays
from .combine import QUATERNION, REFERENCE_RANGE, bias, depth_sigma, stack
from .fitted import NEUTRAL, MemberFit

# Tolerance within which a car is paired with a true one, along and across the ray.
PAIR_LOG_RANGE, PAIR_RADIANS = 0.3, 0.03
MAD = 1.4826  # median absolute deviation → standard deviation
RAYLEIGH = 1.1774  # median length of a 2-D normal vector of standard deviation 1

Members = dict[str, pd.DataFrame]


def of_images(members: Members, image_ids: Iterable[str]) -> Members:
    """The members' cars on these images."""
    image_ids = pd.Index(image_ids)
    return {name: table[table["ImageId"].isin(image_ids)] for name, table in members.items()}


def fit_members(labels: pd.DataFrame, members: Members, image_ids: Iterable[str]) -> dict[str, MemberFit]:
    """How far each member's cars on these images lie from the true ones that `pair_with_truth` finds."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
    rows, true_rows = pair_with_truth(truth, table)
    direction, log_range = rays(table)
    true_direction, true_range = rays(truth)
    range_error, direction_error, rotation_error = np.full((3, len(table)), np.nan)
    range_error[rows] = log_range[rows] - true_range[true_rows]
    direction_error[rows] = np.linalg.norm(direction[rows] - true_direction[true_rows], axis=1)
    predicted_rotation = table[QUATERNION].to_numpy()
    true_rotation = rotation.quaternion(truth[cars.ANGLES].to_numpy(float))
    rotation_error[rows] = rotation.distance(predicted_rotation[rows], true_rotation[true_rows])
    rotation_error[rotation_error > np.pi / 2] = np.nan  # back to front: outvoted, not averaged

    fitted, standardised = {}, np.full((len(truth), len(members)), np.nan)
    scores, predicted = table["score"].to_numpy(float), table["depth_sigma"].to_numpy(float)
    for number, name in enumerate(members):
        of_member = (table["member"] == number).to_numpy()
        paired = of_member & np.isfinite(range_error)
        depth_fit, residual = _fit_depth(range_error[paired], log_range[paired], predicted[paired])
        is_paired = np.isfinite(range_error[of_member]).astype(float)
        turn = rotation_error[paired]
        reliability = fit_logistic(logit(scores[of_member])[:, None], is_paired)
        slope = reliability.coefficients[0] / reliability.scale[0]
        fitted[name] = replace(
            depth_fit,
            direction_sigma=shrunk_scale(direction_error[paired] / RAYLEIGH, NEUTRAL.direction_sigma),
            rotation_sigma=shrunk_scale(turn[np.isfinite(turn)], NEUTRAL.rotation_sigma),
            reliability=(reliability.intercept - slope * reliability.mean[0], slope),
        )
        standardised[true_rows[paired[rows]], number] = residual
    for name, weight in zip(members, _correlation_weights(standardised), strict=True):
        fitted[name] = replace(fitted[name], correlation_weight=weight)
    return fitted


def _fit_depth(
    error: np.ndarray, log_range: np.ndarray, predicted: np.ndarray
) -> tuple[MemberFit, np.ndarray]:
    """Bias, sigma and sigma_scale of one member, and (N,) its remaining errors in standard deviations.

    error, log_range, predicted: (N,) error of log-range, log-range and predicted depth_sigma of its cars.
    """
    coefficients = _fit_bias(error, log_range - np.log(REFERENCE_RANGE))
    residual = error - bias(np.broadcast_to(coefficients, (len(error), 2)), log_range)
    sigma = shrunk_scale(np.abs(residual) * MAD, NEUTRAL.sigma)
    valid = np.isfinite(predicted) & (predicted > 0)
    sigma_scale = shrunk_scale(np.abs(residual[valid]) * MAD / predicted[valid], 1.0)
    depth_fit = MemberFit(bias=tuple(coefficients.tolist()), sigma=sigma, sigma_scale=sigma_scale)
    scaled = residual / depth_sigma(predicted, *np.full((len(error), 2), [sigma, sigma_scale]).T)
    return depth_fit, np.clip(scaled, -3, 3)


def pair_with_truth(
    truth: pd.DataFrame, table: pd.DataFrame, along: float = PAIR_LOG_RANGE, across: float = PAIR_RADIANS
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) rows of `table` that are paired with a true car, and (P,) their rows of `truth`.

    table: cars with the number of their `member`; of each member at most one car is paired with a true car.
    along, across: the largest distance of a pair, in log-range and radians.
    """
    stacked = cars.concat([truth[["ImageId", *cars.POSE]], table[["ImageId", *cars.POSE]]])
    member = np.concatenate([np.zeros(len(truth), int), table["member"].to_numpy(int) + 1])
    direction, log_range = rays(stacked)
    labels = cluster(
        *(pd.factorize(stacked["ImageId"])[0], member, direction, log_range),
        along=np.full(len(stacked), along / np.sqrt(2)),
        across=np.full(len(stacked), across / np.sqrt(2)),
        priority=(member == 0).astype(float),
        recentre=False,
    )
    truth_of = np.full(labels.max(initial=-1) + 1, -1)
    truth_of[labels[: len(truth)]] = np.arange(len(truth))
    true_row = truth_of[labels[len(truth) :]]
    rows = np.flatnonzero(true_row >= 0)
    return rows, true_row[rows]


def _fit_bias(
    error: np.ndarray, relative: np.ndarray, prior: tuple[float, float] = (0.05, 0.03)
) -> np.ndarray:
    """(2,) coefficients of a line through the errors of log-range over `relative` = log(range/40 m); robust
    (Huber's weights) and shrunk: coefficients ~ N(0, prior²)."""
    design = np.column_stack([np.ones(len(relative)), np.clip(relative, -1.5, 1.5)])
    coefficients = np.zeros(2)
    for _ in range(10):
        residual = error - design @ coefficients
        sigma = max(MAD * np.median(np.abs(residual)), 0.005) if len(residual) else 1.0
        weight = np.minimum(1, 1.5 * sigma / np.maximum(np.abs(residual), 1e-9)) / sigma**2
        precision = (design.T * weight) @ design + np.diag(1 / np.square(prior))
        coefficients = np.linalg.solve(precision, design.T @ (weight * error))
    return coefficients


def shrunk_scale(sizes: np.ndarray, prior: float, strength: float = 20) -> float:
    """Median of sizes, shrunk in its logarithm towards `prior`, which counts as `strength` observations."""
    if not len(sizes):
        return float(prior)
    log = np.log(max(np.median(sizes), 1e-4))
    return float(np.exp((len(sizes) * log + strength * np.log(prior)) / (len(sizes) + strength)))


def _correlation_weights(standardised: np.ndarray, strength: float = 20) -> list[float]:
    """Weight of each member given the correlation Σ of the members' errors: Σ⁻¹·1, clipped to 0.1 … 1.

    standardised: (true cars, M) errors of log-range in standard deviations, NaN where the member has no car.
    Correlations are shrunk towards 0, which counts as `strength` observations. A single member gets 1.
    """
    paired = np.isfinite(standardised)
    error = np.where(paired, standardised, 0.0)
    in_both = paired.T.astype(float) @ paired.astype(float)
    spread = np.sqrt((error**2).T @ paired * (paired.T @ error**2)) + 1e-9  # over cars that both members have
    correlation = np.clip(error.T @ error / spread, 0, 0.98) * in_both / (in_both + strength)
    np.fill_diagonal(correlation, 1.0)
    # A matrix of pairwise estimates need not be positive definite: raise the smallest eigenvalue.
    lowest = np.linalg.eigvalsh(correlation)[0]
    lift = max(0.05 - lowest, 0.0)
    weights = np.linalg.solve(correlation + lift * np.eye(len(correlation)), np.ones(len(correlation)))
    return np.clip(weights * (1 + lift), 0.1, 1.0).tolist()
