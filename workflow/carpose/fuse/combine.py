"""Tables of cars of several members → one table: cars are clustered, and each cluster becomes one car with
its mean pose, a score and depth_sigma."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from carpose.core import cars, pair_search
from carpose.core.errors import UserError
from carpose.geometry import ground, rotation

from .calibration import logit, sigmoid
from .clustering import cluster, rays
from .fitted import NEUTRAL, Fit

SIGMA_RANGE = 0.01, 0.3  # of log z
QUATERNION = ["qx", "qy", "qz", "qw"]
REFERENCE_RANGE = 40.0  # metres, the range at which the bias equals its first coefficient
# Two cars can be the same up to this distance along the ray, in standard deviations of log-range.
ALONG_SIGMAS = 3.0
# And up to this distance across the ray: an angle plus a length.
ACROSS_RADIANS, ACROSS_METRES = 0.02, 0.3


def stack(members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables by member name → one table with `member` (its number), depth_sigma (NaN where not predicted) and
    the rotations as QUATERNION, computed once because that takes long."""
    tables = []
    for number, table in enumerate(members.values()):
        sigma = table.get("depth_sigma", np.nan)
        tables.append(table[["ImageId", *cars.POSE, "score"]].assign(depth_sigma=sigma, member=number))
    table = cars.concat(tables)
    table[QUATERNION] = rotation.quaternion(table[cars.ANGLES].to_numpy(float))
    return table


def fuse(
    members: dict[str, pd.DataFrame], fit: Fit | None = None, parts: Collection[str] | None = None
) -> pd.DataFrame:
    """Cluster and average the members' cars.

    members: tables of cars with score; fit: of carpose.fuse.fit, its members keyed by these names
    (default: equal weights); parts: which parts of the fit to use (default: those that it enables).

    Returns ImageId, pose, score, depth_sigma, agreement (number of members with this car) and
    above_threshold (keep the car for the leaderboard, which ignores confidences), by image and descending
    score. Raises UserError where a member is not in the fit, or the fit uses none of the members.
    """
    fit = fit or Fit(members=dict.fromkeys(members, NEUTRAL))
    if unknown := [name for name in members if name not in fit.members]:
        text = f"{unknown[0]} is not a member of the fit, which has {', '.join(fit.members)}"
        raise UserError(f"{text}; fit the fusion again with {unknown[0]}")
    parts = fit.enabled_parts() if parts is None else parts
    if "members" in parts:
        used = {name: table for name, table in members.items() if name in fit.used}
        if members and not used:
            text = f"leaves out {', '.join(members)} and uses {', '.join(fit.used)}, which are not given"
            raise UserError(f"the fit {text}; fit the fusion again with these members")
        members = used
    return postprocess(fit, *combine(stack(members), fit, list(members), parts), parts)


def fuse_with_missing(
    members: dict[str, pd.DataFrame], missing: Mapping[str, Iterable[str]], fit: Fit | None = None
) -> pd.DataFrame:
    """As `fuse`, but a photo that a member did not predict is fused from the other members alone.

    missing: member name → ImageIds of the photos that it did not predict. A photo that was predicted to be
    without cars is not among them: there the member lowers the score of the others' cars.
    """
    absent: dict[str, list[str]] = {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, image_ids in missing.items():
        for image_id in image_ids:
            absent.setdefault(image_id, []).append(name)
    for image_id, absent_names in absent.items():
        groups.setdefault(tuple(absent_names), []).append(image_id)
    complete = {name: table[~table["ImageId"].isin(list(absent))] for name, table in members.items()}
    fused = [fuse(complete, fit)]
    for names, image_ids in groups.items():
        predicted = {name: table for name, table in members.items() if name not in names}
        predicted = {name: table[table["ImageId"].isin(image_ids)] for name, table in predicted.items()}
        fused.append(fuse(predicted, fit))
    return _by_image_and_score(cars.concat(fused))


def postprocess(fit: Fit, fused: pd.DataFrame, features: np.ndarray, parts: Collection[str]) -> pd.DataFrame:
    """Applies to the cars and features of `combine` what the fit has for fused cars: the scale of
    depth_sigma, the range of angles, the calibrated score; adds the column above_threshold."""
    fused = fused.assign(depth_sigma=np.clip(fit.fused_sigma_scale * fused["depth_sigma"], *SIGMA_RANGE))
    if "angle_range" in parts:
        assert fit.angle_range is not None
        fused = fit.angle_range.apply(fused)
    score_type = "plain"
    if "calibration" in parts:
        score_type = "calibrated"
        assert fit.score_model is not None
        fused = fused.assign(score=fit.score_model.predict(features))
    fused = fused.assign(above_threshold=fused["score"] >= fit.thresholds.get(score_type, 0.0))
    return _by_image_and_score(fused)


def _by_image_and_score(fused: pd.DataFrame) -> pd.DataFrame:
    order = np.lexsort((-fused["score"].to_numpy(), fused["ImageId"].to_numpy().astype(str)))
    return fused.iloc[order].reset_index(drop=True)


def combine(
    table: pd.DataFrame, fit: Fit, names: list[str], parts: Collection[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """A table of `stack` → C fused cars with a plain score, and (C, F) features for the calibrated score.

    names: of the members, by number. The plain score is the mean of the members' scores, 0 for a member
    without this car. Depth along the ray is the precision-weighted mean of logarithms, rotation the weighted
    quaternion mean (Markley et al. 2007).
    """
    if not len(table):
        none = cars.empty([*cars.POSE, "score", "depth_sigma", "agreement"])
        return none, np.empty((0, 2 * len(fit.members) + 7))
    observed = _Observations(table, fit, names, parts)
    labels = cluster(
        *(observed.image, observed.member, observed.direction, observed.log_range),
        along=ALONG_SIGMAS * observed.sigma / np.sqrt(2),
        across=(ACROSS_RADIANS + ACROSS_METRES * np.exp(-observed.log_range)) / np.sqrt(2),
        priority=observed.evidence,
    )
    count = labels.max() + 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(labels, values, count)

    precision = observed.correlation_weight / observed.sigma**2
    log_range = total(precision * observed.log_range) / total(precision)
    direction_weight = observed.correlation_weight / observed.direction_sigma**2
    sums = [total(direction_weight * observed.direction[:, axis]) for axis in range(3)]
    direction = np.stack(sums, axis=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    rotation_weight = observed.correlation_weight / observed.rotation_sigma**2 * sigmoid(observed.evidence)
    quaternion, angle_to_mean = _mean_rotation(table[QUATERNION].to_numpy(), rotation_weight, labels, count)

    agreement = total(np.ones(len(labels)))
    disagreement = total(precision * (observed.log_range - log_range[labels]) ** 2)
    # Where members disagree by more than their sigmas, the chi-squared excess per member widens sigma.
    excess = np.maximum(disagreement - (agreement - 1), 0)
    fused_sigma = np.sqrt(1 / total(precision) * (1 + excess / (agreement + 1)))

    image_of_cluster = np.empty(count, int)
    image_of_cluster[labels] = observed.image
    fused = pd.DataFrame({"ImageId": observed.image_ids[image_of_cluster]})
    fused[cars.ANGLES] = rotation.angles_from_quaternion(quaternion)
    fused[cars.POSITION] = direction * np.exp(log_range)[:, None]
    fused["score"] = total(observed.score) / len(names)
    fused["depth_sigma"] = np.clip(fused_sigma, *SIGMA_RANGE)
    fused["agreement"] = agreement.astype(int)
    if "ground" in parts:
        assert fit.ground is not None
        fused = ground.refine(fused, fit.ground)

    columns = [
        rays(fused)[1],
        np.log(fused["depth_sigma"].to_numpy()),
        np.log1p(np.sqrt(disagreement / agreement)),
        np.log1p(10 * total(angle_to_mean) / agreement),
        np.log(agreement),
        logit(fused["score"].to_numpy()),
        nearness_of_stronger_car(image_of_cluster, direction, log_range, total(sigmoid(observed.evidence))),
    ]
    return fused, np.column_stack([_member_features(observed, labels, list(fit.members), names), *columns])


class _Observations:
    """The members' cars with the uncertainties fitted for their members; arrays of one value per car.

    image: index into image_ids; direction: (N, 3); log_range: of metres, the bias subtracted; sigma: standard
    deviation of log_range; direction_sigma, rotation_sigma: radians; correlation_weight: of MemberFit;
    evidence: logit of the probability that it is a true car.
    """

    def __init__(self, table: pd.DataFrame, fit: Fit, names: list[str], parts: Collection[str]):
        self.member, self.score = table["member"].to_numpy(), table["score"].to_numpy(float)
        self.image, image_ids = pd.factorize(table["ImageId"], sort=True)
        self.image_ids = np.asarray(image_ids, object)
        self.direction, self.log_range = rays(table)
        fitted = [fit.member(name, parts) for name in names]

        def of_member(field: str) -> np.ndarray:
            return np.array([getattr(member, field) for member in fitted], float)[self.member]

        if "bias" in parts:
            self.log_range = self.log_range - bias(of_member("bias"), self.log_range)
        predicted, reliability = table["depth_sigma"].to_numpy(float), of_member("reliability")
        self.sigma = depth_sigma(predicted, of_member("sigma"), of_member("sigma_scale"))
        self.direction_sigma, self.rotation_sigma = of_member("direction_sigma"), of_member("rotation_sigma")
        self.correlation_weight = of_member("correlation_weight")
        self.evidence = reliability[:, 0] + reliability[:, 1] * logit(self.score)


def _member_features(
    observed: _Observations, labels: np.ndarray, fitted: list[str], names: list[str]
) -> np.ndarray:
    """(C, 2·members of the fit): for each member 1 if it has a car in the cluster, then for each the logit of
    that car's score; 0 where it has none."""
    column = np.array([fitted.index(name) for name in names])[observed.member]
    features = np.zeros((labels.max() + 1, 2, len(fitted)))
    features[labels, 0, column] = 1
    features[labels, 1, column] = logit(observed.score)
    return features.reshape(len(features), -1)


def bias(coefficients: np.ndarray, log_range: np.ndarray) -> np.ndarray:
    """(N, 2) coefficients of 1 and log(range/40 m), (N,) predicted log-range → (N,) its systematic error."""
    relative = np.clip(log_range - np.log(REFERENCE_RANGE), -1.5, 1.5)
    return coefficients[:, 0] + coefficients[:, 1] * relative


def depth_sigma(predicted: np.ndarray, default: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) standard deviation of log z: the predicted one times scale, or the default where none was
    predicted; clipped to SIGMA_RANGE."""
    valid = np.isfinite(predicted) & (predicted > 0)
    return np.clip(np.where(valid, scale * np.where(valid, predicted, 1.0), default), *SIGMA_RANGE)


def _mean_rotation(
    quaternions: np.ndarray, weight: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 4) mean quaternion of each cluster, and (N,) each car's angle to it in radians.

    A car predicted back to front lies at 180°. The first mean follows the side with more weight (the
    quaternions of the two sides are orthogonal, so the heavier side is the top eigenvector); the second
    leaves out the cars of the other side.
    """
    mean = np.empty((count, 4))
    mean[labels] = quaternions

    def update(clusters: np.ndarray, weight: np.ndarray) -> None:
        new_label = np.full(count, -1)
        new_label[clusters] = np.arange(len(clusters))
        selected = new_label[labels] >= 0
        selection = quaternions[selected], weight[selected], new_label[labels[selected]]
        mean[clusters] = rotation.mean_quaternion(*selection, len(clusters))

    update(np.flatnonzero(np.bincount(labels, minlength=count) > 1), weight)
    agrees = rotation.distance(quaternions, mean[labels]) < np.pi / 2
    update(np.unique(labels[~agrees]), weight * agrees)
    return mean, rotation.distance(quaternions, mean[labels])


def nearness_of_stronger_car(
    image: np.ndarray, direction: np.ndarray, log_range: np.ndarray, strength: np.ndarray, reach: float = 0.1
) -> np.ndarray:
    """(C,) 0 … 1: how near the nearest stronger car of the image is.

    1: at the same place; 0: at a distance of `reach` (relative to the car's range) or more.
    """
    neighbour, car = pair_search.pairs_in_range(image, log_range, image, log_range, reach)
    rank = np.empty(len(image), int)
    rank[np.lexsort((-strength, image))] = np.arange(len(image))
    stronger = rank[neighbour] < rank[car]
    car, neighbour = car[stronger], neighbour[stronger]
    position = direction * np.exp(log_range)[:, None]
    nearest = np.full(len(image), np.inf)
    distance = np.linalg.norm(position[car] - position[neighbour], axis=1) / np.exp(log_range[car])
    np.minimum.at(nearest, car, distance)
    return np.maximum(1 - nearest / reach, 0)
