"""The ground that the cars of one photo stand on, and what it says of their depth.

The centres of cars lie near a plane y = a·x + b·z + c (camera frame, metres): a is the camera's roll and b
its pitch against the road, c its height above the centres. With u = x/z and v = y/z that is
v = a·u + b + c/z, so the direction in which a car is seen and the plane together give its depth.
All cars of all photos are worked on at once; there is no loop over photos or cars.
"""

import numpy as np
import pandas as pd

from carpose.core.cars import POSITION

ROUNDS = 5  # of reweighting; the planes hardly move after the third
T_DOF = 3.0  # of Student's t for cars' distances from the plane: some are on bridges or kerbs, or false
RAY_STD = 0.003  # standard deviation of v: a pixel or so of the network's input
DEFAULT_SIGMA = 0.05  # of log z, where a table does not say
OUTLIER_SIGMAS = 3.0  # standard deviations by which plane and network may differ
LEAST_SLOPE = 1e-3  # of the ray against the plane: nearer to the horizon the plane says nothing


def fit_prior(labels: pd.DataFrame) -> dict:
    """The planes of labelled photos → what to expect of another photo of this camera.

    Expectation maximisation of a plane per photo, drawn from one normal distribution, with Student's t for
    the cars' distances from it. Returns, ready for JSON: mean (3) and covariance (3×3) of a, b, c, and
    height, the standard deviation in metres of centres about their plane.
    """
    x, y, z = labels[POSITION].to_numpy(float).T
    photo = pd.factorize(labels["ImageId"])[0]
    count = photo.max(initial=-1) + 1
    rows = np.column_stack([x, z, np.ones_like(x)])
    mean, height = np.array([0.0, 0.15, 1.5]), 0.2  # a car's roof, looking down a little
    covariance = np.diag([0.02, 0.02, 0.3]) ** 2
    for _ in range(30 if count else 0):
        weight = np.ones(len(x))
        for _ in range(2):
            precision, pull = _sums(rows, y, weight / height**2, photo, count)
            spread = np.linalg.inv(precision + np.linalg.inv(covariance))
            planes = _times(spread, pull + np.linalg.solve(covariance, mean))
            square = (y - _dot(rows, planes[photo])) ** 2 + _dot(rows, _times(spread[photo], rows))
            weight = _student(square / height**2)
        mean = planes.mean(axis=0)
        away = planes - mean
        covariance = (spread + away[:, :, None] * away[:, None, :]).mean(axis=0)
        height = float(np.sqrt((weight * square).mean()))
    return {"mean": mean.tolist(), "covariance": covariance.tolist(), "height": height}


def refine(table: pd.DataFrame, prior: dict) -> pd.DataFrame:
    """Cars moved along their rays to where the ground of their photo would have them.

    table: cars with score and depth_sigma (NaN: SIGMA), at most a few hundred per photo; prior: of
    `fit_prior`. Plane and network are weighed by their uncertainties. The plane that a car is held against
    is that of the prior and the photo's other cars. Where both differ by more than REFUSED standard
    deviations, or the car is seen near the horizon, it stays as it is.
    """
    x, y, z = table[POSITION].to_numpy(float).T
    photo, _ = pd.factorize(table["ImageId"])
    count = photo.max(initial=-1) + 1
    u, v = x / z, y / z
    sigma = table["depth_sigma"].to_numpy(float)
    sigma = np.where(np.isfinite(sigma) & (sigma > 0), sigma, DEFAULT_SIGMA)
    rows = np.column_stack([u, np.ones_like(u), 1 / z])
    mean, stiffness, height = np.array(prior["mean"]), np.linalg.inv(prior["covariance"]), prior["height"]
    planes = np.broadcast_to(mean, (count, 3))
    for _ in range(ROUNDS):
        variance = (planes[photo, 2] / z * sigma) ** 2 + (height / z) ** 2 + RAY_STD**2
        weight = _student((v - _dot(rows, planes[photo])) ** 2 / variance)
        weight *= table["score"].to_numpy(float) / variance
        precision, pull = _sums(rows, v, weight, photo, count)
        planes = _times(np.linalg.inv(precision + stiffness), pull + stiffness @ mean)

    own_precision = weight[:, None, None] * rows[:, :, None] * rows[:, None, :]
    rest_precision = precision[photo] - own_precision + stiffness
    spread = np.linalg.inv(rest_precision)
    plane = _times(spread, pull[photo] - (weight * v)[:, None] * rows + stiffness @ mean)
    slope = v - plane[:, 0] * u - plane[:, 1]
    sane = (slope > LEAST_SLOPE) & (plane[:, 2] > 0)
    slope, camera_height = np.where(sane, slope, 1.0), np.where(sane, plane[:, 2], 1.0)
    ground_z = camera_height / slope
    rows = np.column_stack([u, np.ones_like(u), 1 / ground_z])
    variance = (_dot(rows, _times(spread, rows)) + (height / ground_z) ** 2 + RAY_STD**2) / slope**2
    step = np.log(ground_z / z)
    sane &= step**2 < OUTLIER_SIGMAS**2 * (sigma**2 + variance)
    share = np.where(sane, sigma**2 / (sigma**2 + variance), 0.0)

    result = table.copy()
    result[POSITION] = table[POSITION].to_numpy(float) * np.exp(share * step)[:, None]
    result["depth_sigma"] = sigma * np.sqrt(1 - share)
    return result


def _sums(rows, values, weight, photo, count):
    """Normal equations of each photo: Σ w·r·rᵀ (count, 3, 3) and Σ w·r·value (count, 3)."""
    weighted = weight[:, None] * rows
    outer = (weighted[:, :, None] * rows[:, None, :]).reshape(-1, 9)
    cells = np.concatenate([outer, weighted * values[:, None]], 1)
    sums = np.stack([np.bincount(photo, column, count) for column in cells.T], axis=1)
    return sums[:, :9].reshape(-1, 3, 3), sums[:, 9:]


def _student(square):
    """Weight of an observation that lies √square standard deviations away."""
    return (T_DOF + 1) / (T_DOF + square)


def _dot(a, b):
    return (a * b).sum(axis=-1)


def _times(matrices, vectors):
    return np.einsum("...ij,...j->...i", matrices, vectors)
