"""Correlation of the errors of two members, and the least error that fusing the two can reach."""

import itertools

import numpy as np
import pandas as pd

from carpose.geometry import rotation

from .errors import pair_with_truth


def member_pairs(truth: pd.DataFrame, members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per pair of members, of the true cars that both are paired with (`pair_with_truth`).

    depth_correlation, yaw_correlation: of the errors of log z, and of yaw where both are off by less than
    50°. depth_sd, other_depth_sd: standard deviation of the errors of log z; fused_depth_sd: that of the best
    weighted mean of both, which is the least that fusing these two by fixed weights can reach.
    """
    errors = {name: _errors(truth, table) for name, table in members.items()}
    rows = []
    for first, second in itertools.combinations(members, 2):
        both = np.isfinite(errors[first][:, 0]) & np.isfinite(errors[second][:, 0])
        depth = np.column_stack([errors[first][both, 0], errors[second][both, 0]])
        yaw = np.column_stack([errors[first][both, 1], errors[second][both, 1]])
        yaw = yaw[(np.abs(yaw) < np.radians(50)).all(axis=1)]
        covariance = np.cov(depth.T) if len(depth) > 2 else np.full((2, 2), np.nan)
        sd, other_sd = np.sqrt(np.diag(covariance))
        rows.append(
            {
                "member": first,
                "other": second,
                "cars": int(both.sum()),
                "depth_correlation": _correlation(depth),
                "yaw_correlation": _correlation(yaw),
                "depth_sd": sd,
                "other_depth_sd": other_sd,
                "fused_depth_sd": _least_sd(covariance),
            }
        )
    columns = ["member", "other", "cars", "depth_correlation", "yaw_correlation"]
    return pd.DataFrame(rows, columns=[*columns, "depth_sd", "other_depth_sd", "fused_depth_sd"])


def _errors(truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """(T, 2) errors of log z and yaw (radians) for each true car, NaN where the member has no car for it."""
    matched_truth = pair_with_truth(truth, predictions)
    rows = np.flatnonzero(matched_truth >= 0)
    true_rows = matched_truth[rows]
    result = np.full((len(truth), 2), np.nan)
    result[true_rows, 0] = np.log(
        predictions["z"].to_numpy(float)[rows] / truth["z"].to_numpy(float)[true_rows]
    )
    yaw_error = predictions["yaw"].to_numpy(float)[rows] - truth["yaw"].to_numpy(float)[true_rows]
    result[true_rows, 1] = rotation.wrap(yaw_error)
    return result


def _correlation(pairs: np.ndarray) -> float:
    """Of the two columns (N, 2); NaN where it is not defined."""
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return np.nan
    return float(np.corrcoef(pairs.T)[0, 1])


def _least_sd(covariance: np.ndarray) -> float:
    """The standard deviation of the mean with the best weights in 0 … 1."""
    (a, c), (_, b) = covariance
    weight = np.clip((b - c) / max(a + b - 2 * c, 1e-30), 0, 1)
    return float(np.sqrt(weight**2 * a + (1 - weight) ** 2 * b + 2 * weight * (1 - weight) * c))
