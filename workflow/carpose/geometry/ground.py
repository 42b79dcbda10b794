"""A ground plane per photo, estimated from its cars, that corrects their depths.

The centres of cars lie near a plane y = a·x + b·z + c (camera frame, metres): a is the camera's roll and b
its pitch against the road, c its height above the centres. With u = x/z and v = y/z that is
v = a·u + b + c/z, so the plane and a car's direction (u, v) give its depth z.
The functions are vectorised over all cars of all photos.
"""

import numpy as np
import pandas as pd

from carpose.core.cars import POSITION

ROUNDS = 5  # of reweighting; the planes hardly change after the third
T_DOF = 3.0  # degrees of freedom of Student's t for distances from the plane: cars on bridges, false ones
RAY_STD = 0.003  # standard deviation of v: about one pixel of the network's input
DEFAULT_SIGMA = 0.05  # standard deviation of log z where a table has none
OUTLIER_SIGMAS = 3.0  # if the depths of plane and network differ by more, the car is not moved
# Of made-up cars that lie exactly on a plane; without it their matrices cannot be inverted.
MIN_HEIGHT, MIN_VARIANCE = 1e-3, 1e-10  # metres; smallest eigenvalue of the planes' covariance
MIN_SLOPE = 1e-3  # of the ray against the plane: nearer to the horizon the plane gives no depth


def fit_prior(labels: pd.DataFrame) -> dict:
    """Table of labelled cars → prior of the plane of another photo of the same camera.

    Expectation maximisation: the planes of the photos come from one normal distribution, the cars' distances
    from their plane from Student's t. Returns, ready for JSON: mean (3) and covariance (3×3) of a, b, c, and
    height, the standard deviation in metres of the distances.
    """
    x, y, z = labels[POSITION].to_numpy(float).T
    photo = pd.factorize(labels["ImageId"])[0]
    count = photo.max(initial=-1) + 1
    rows = np.column_stack([x, z, np.ones_like(x)])
    mean, height = np.array([0.0, 0.15, 1.5]), 0.2  # start: a camera on a car's roof, tilted down a little
    covariance = np.diag([0.02, 0.02, 0.3]) ** 2
    for _ in range(30 if count else 0):
        weight = np.ones(len(x))
        for _ in range(2):
            precision, rhs = _normal_equations(rows, y, weight / height**2, photo, count)
            posterior = np.linalg.inv(precision + np.linalg.inv(covariance))
            planes = _times(posterior, rhs + np.linalg.solve(covariance, mean))
            square = (y - _dot(rows, planes[photo])) ** 2 + _dot(rows, _times(posterior[photo], rows))
            weight = _student(square / height**2)
        mean = planes.mean(axis=0)
        deviation = planes - mean
        covariance = (posterior + deviation[:, :, None] * deviation[:, None, :]).mean(axis=0)
        if np.linalg.eigvalsh(covariance)[0] < MIN_VARIANCE:
            covariance = covariance + MIN_VARIANCE * np.eye(3)
        height = max(float(np.sqrt((weight * square).mean())), MIN_HEIGHT)
    return {"mean": mean.tolist(), "covariance": covariance.tolist(), "height": height}


def refine(table: pd.DataFrame, prior: dict) -> pd.DataFrame:
    """The cars, each moved along its ray towards the depth that the ground plane of its photo gives.

    table: cars with score and depth_sigma (NaN: DEFAULT_SIGMA); prior: of `fit_prior`. A car's plane is
    estimated from the prior and the photo's other cars. The new depth is the mean of the plane's and the
    network's, weighted by their precisions. A car stays where it is if the two differ by more than
    OUTLIER_SIGMAS standard deviations or its ray is near the horizon.
    """
    x, y, z = table[POSITION].to_numpy(float).T
    photo, _ = pd.factorize(table["ImageId"])
    count = photo.max(initial=-1) + 1
    u, v = x / z, y / z
    sigma = table["depth_sigma"].to_numpy(float)
    sigma = np.where(np.isfinite(sigma) & (sigma > 0), sigma, DEFAULT_SIGMA)
    rows = np.column_stack([u, np.ones_like(u), 1 / z])
    mean, height = np.array(prior["mean"]), prior["height"]
    prior_precision = np.linalg.inv(prior["covariance"])
    planes = np.broadcast_to(mean, (count, 3))
    for _ in range(ROUNDS):
        variance = (planes[photo, 2] / z * sigma) ** 2 + (height / z) ** 2 + RAY_STD**2
        weight = _student((v - _dot(rows, planes[photo])) ** 2 / variance)
        weight *= table["score"].to_numpy(float) / variance
        precision, rhs = _normal_equations(rows, v, weight, photo, count)
        planes = _times(np.linalg.inv(precision + prior_precision), rhs + prior_precision @ mean)

    # Each car's plane without the car itself.
    car_precision = weight[:, None, None] * rows[:, :, None] * rows[:, None, :]
    others_precision = precision[photo] - car_precision + prior_precision
    covariance = np.linalg.inv(others_precision)
    plane = _times(covariance, rhs[photo] - (weight * v)[:, None] * rows + prior_precision @ mean)
    slope = v - plane[:, 0] * u - plane[:, 1]
    movable = (slope > MIN_SLOPE) & (plane[:, 2] > 0)
    slope, camera_height = np.where(movable, slope, 1.0), np.where(movable, plane[:, 2], 1.0)
    ground_z = camera_height / slope
    rows = np.column_stack([u, np.ones_like(u), 1 / ground_z])
    variance = (_dot(rows, _times(covariance, rows)) + (height / ground_z) ** 2 + RAY_STD**2) / slope**2
    step = np.log(ground_z / z)
    movable &= step**2 < OUTLIER_SIGMAS**2 * (sigma**2 + variance)
    share = np.where(movable, sigma**2 / (sigma**2 + variance), 0.0)

    result = table.copy()
    result[POSITION] = table[POSITION].to_numpy(float) * np.exp(share * step)[:, None]
    result["depth_sigma"] = sigma * np.sqrt(1 - share)
    return result


def _normal_equations(
    rows: np.ndarray, values: np.ndarray, weight: np.ndarray, photo: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each photo: Σ w·r·rᵀ (count, 3, 3) and the right-hand side Σ w·r·value (count, 3)."""
    weighted = weight[:, None] * rows
    outer = (weighted[:, :, None] * rows[:, None, :]).reshape(-1, 9)
    cells = np.concatenate([outer, weighted * values[:, None]], 1)
    sums = np.stack([np.bincount(photo, column, count) for column in cells.T], axis=1)
    return sums[:, :9].reshape(-1, 3, 3), sums[:, 9:]


def _student(square: np.ndarray) -> np.ndarray:
    """The weight, under Student's t, of an observation √square standard deviations from its expectation."""
    return (T_DOF + 1) / (T_DOF + square)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("...ij,...j->...i", matrices, vectors)
