"""What is known of each member of a fusion: how far its cars lie from the true ones.

In: true cars and tables of predictions. Out: a MemberFit of each.
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

ALONG, ACROSS = 0.3, 0.03  # how far (log-range, radians) a car may lie from the truth it is fitted to
MAD = 1.4826  # median absolute deviation → standard deviation
RAYLEIGH = 1.1774  # median length of a 2-D normal vector of standard deviation 1

Members = dict[str, pd.DataFrame]


def of_images(members: Members, image_ids: Iterable[str]) -> Members:
    """The members' cars on these images."""
    wanted = pd.Index(image_ids)
    return {name: table[table["ImageId"].isin(wanted)] for name, table in members.items()}


def fit_members(labels: pd.DataFrame, members: Members, image_ids: Iterable[str]) -> dict[str, MemberFit]:
    """How far each member's cars on these images lie from the true ones that `pair_with_truth` finds."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
    pair, at = pair_with_truth(truth, table)
    direction, log_range = rays(table)
    true_direction, true_range = rays(truth)
    error, aside, turn = np.full((3, len(table)), np.nan)
    error[pair] = log_range[pair] - true_range[at]
    aside[pair] = np.linalg.norm(direction[pair] - true_direction[at], axis=1)
    seen, true = table[QUATERNION].to_numpy(), rotation.quaternion(truth[cars.ANGLES].to_numpy(float))
    turn[pair] = rotation.distance(seen[pair], true[at])
    turn[turn > np.pi / 2] = np.nan  # back to front: the vote's business

    fitted, standard = {}, np.full((len(truth), len(members)), np.nan)
    scores, predicted = table["score"].to_numpy(float), table["depth_sigma"].to_numpy(float)
    for number, name in enumerate(members):
        of_member = (table["member"] == number).to_numpy()
        paired = of_member & np.isfinite(error)
        depth_fit, residual = _fit_depth(error[paired], log_range[paired], predicted[paired])
        is_paired = np.isfinite(error[of_member]).astype(float)
        reliability = fit_logistic(logit(scores[of_member])[:, None], is_paired)
        slope = reliability.coefficients[0] / reliability.scale[0]
        fitted[name] = replace(
            depth_fit,
            direction_sigma=shrunk_scale(aside[paired] / RAYLEIGH, NEUTRAL.direction_sigma),
            rotation_sigma=shrunk_scale(turn[paired][np.isfinite(turn[paired])], NEUTRAL.rotation_sigma),
            reliability=(reliability.intercept - slope * reliability.mean[0], slope),
        )
        standard[at[paired[pair]], number] = residual
    for name, share in zip(members, _shares(standard), strict=True):
        fitted[name] = replace(fitted[name], share=share)
    return fitted


def _fit_depth(
    error: np.ndarray, log_range: np.ndarray, predicted: np.ndarray
) -> tuple[MemberFit, np.ndarray]:
    """Bias, sigma and its scale of a member's cars: their errors of log-range, log-range and own depth_sigma;
    and the errors that are left, in standard deviations."""
    coefficients = _fit_bias(error, log_range - np.log(REFERENCE_RANGE))
    residual = error - bias(np.broadcast_to(coefficients, (len(error), 2)), log_range)
    sigma = shrunk_scale(np.abs(residual) * MAD, NEUTRAL.sigma)
    told = np.isfinite(predicted) & (predicted > 0)
    sigma_scale = shrunk_scale(np.abs(residual[told]) * MAD / predicted[told], 1.0)
    depth_fit = MemberFit(bias=tuple(coefficients.tolist()), sigma=sigma, sigma_scale=sigma_scale)
    scaled = residual / depth_sigma(predicted, *np.full((len(error), 2), [sigma, sigma_scale]).T)
    return depth_fit, np.clip(scaled, -3, 3)


def pair_with_truth(
    truth: pd.DataFrame, table: pd.DataFrame, along: float = ALONG, across: float = ACROSS
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `table` that see a true car (each member each car once), and the rows of `truth` they see.

    along, across: how far they may be apart, in log-range and radians.
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
    seen = truth_of[labels[len(truth) :]]
    pair = np.flatnonzero(seen >= 0)
    return pair, seen[pair]


def _fit_bias(error, far, prior=(0.05, 0.03)):
    """Line through the errors of log-range, robust (Huber) and shrunk: coefficients ~ N(0, prior²)."""
    design = np.column_stack([np.ones(len(far)), np.clip(far, -1.5, 1.5)])
    coefficients = np.zeros(2)
    for _ in range(10):
        residual = error - design @ coefficients
        sigma = max(MAD * np.median(np.abs(residual)), 0.005) if len(residual) else 1.0
        weight = np.minimum(1, 1.5 * sigma / np.maximum(np.abs(residual), 1e-9)) / sigma**2
        precision = (design.T * weight) @ design + np.diag(1 / np.square(prior))
        coefficients = np.linalg.solve(precision, design.T @ (weight * error))
    return coefficients


def shrunk_scale(sizes, prior, strength=20):
    """Median of sizes, drawn towards `prior` as if that had been seen `strength` times."""
    if not len(sizes):
        return float(prior)
    log = np.log(max(np.median(sizes), 1e-4))
    return float(np.exp((len(sizes) * log + strength * np.log(prior)) / (len(sizes) + strength)))


def _shares(standard, strength=20):
    """How much each member counts given that members repeat each other's errors: Σ⁻¹·1, 1 if alone.

    standard: (true cars, M) errors in depth in units of their standard deviation, NaN where not seen.
    """
    seen = np.isfinite(standard)
    value = np.where(seen, standard, 0.0)
    seen_by_both = seen.T.astype(float) @ seen.astype(float)
    spread = np.sqrt((value**2).T @ seen * (seen.T @ value**2)) + 1e-9  # of what both see
    correlation = np.clip(value.T @ value / spread, 0, 0.98) * seen_by_both / (seen_by_both + strength)
    np.fill_diagonal(correlation, 1.0)
    # Sums of pairwise estimates need not be positive definite: raise the smallest eigenvalue.
    lowest = np.linalg.eigvalsh(correlation)[0]
    lift = max(0.05 - lowest, 0.0)
    weights = np.linalg.solve(correlation + lift * np.eye(len(correlation)), np.ones(len(correlation)))
    return np.clip(weights * (1 + lift), 0.1, 1.0).tolist()
