"""Tables of cars of several members → one: clusters, their means, and a score and depth_sigma of each."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from carpose.core import cars, pair_search
from carpose.core.errors import UserError
from carpose.geometry import ground, rotation

from .calibration import logit, sigmoid
from .clustering import cluster, rays
from .fitted import NEUTRAL, Fit

SIGMA_RANGE = 0.01, 0.3
QUATERNION = ["qx", "qy", "qz", "qw"]
REFERENCE_RANGE = 40.0  # metres, where the bias is its first coefficient
# How far apart two cars may lie to be one: standard deviations of log-range, radians and metres across.
ALONG, ACROSS, METRES = 3.0, 0.02, 0.3


def stack(members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables by name → one table with `member` (its number), depth_sigma (NaN where not known) and the
    rotations as QUATERNION, which take long to make."""
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
    (default: equal weights); parts: which parts of the fit to use (default: those it found to pay).

    Returns ImageId, pose, score, depth_sigma, agreement (how many members) and above_threshold (to be
    kept for the leaderboard, which ignores confidences), by image and falling score. Raises UserError
    where the fit does not know a member.
    """
    fit = fit or Fit(members=dict.fromkeys(members, NEUTRAL))
    if unknown := [name for name in members if name not in fit.members]:
        raise UserError(f"the fit knows no member {unknown[0]}, only {', '.join(fit.members)}; fit it again")
    parts = fit.enabled_parts() if parts is None else parts
    if "members" in parts:
        used = {name: table for name, table in members.items() if name in fit.used}
        if members and not used:
            text = f"leaves out {', '.join(members)} and uses {', '.join(fit.used)}, which are not given"
            raise UserError(f"the fit {text}; fit these members again")
        members = used
    return finish(fit, *combine(stack(members), fit, list(members), parts), parts)


def fuse_looked_at(
    members: dict[str, pd.DataFrame], missing: Mapping[str, Iterable[str]], fit: Fit | None = None
) -> pd.DataFrame:
    """As `fuse`, but a photo that a member did not look at is fused as if that member were not there.

    missing: of members that did not look at all photos, by name, the ImageIds of those left out. A photo
    that a member looked at without seeing a car is none of them: that does tell against a car.
    """
    absent, groups = {}, {}
    for name, image_ids in missing.items():
        for image_id in image_ids:
            absent.setdefault(image_id, []).append(name)
    for image_id, names in absent.items():
        groups.setdefault(tuple(names), []).append(image_id)
    complete = {name: table[~table["ImageId"].isin(list(absent))] for name, table in members.items()}
    fused = [fuse(complete, fit)]
    for names, image_ids in groups.items():
        looked = {name: table for name, table in members.items() if name not in names}
        looked = {name: table[table["ImageId"].isin(image_ids)] for name, table in looked.items()}
        fused.append(fuse(looked, fit))
    return _by_image_and_score(cars.concat(fused))


def finish(fit: Fit, fused: pd.DataFrame, features: np.ndarray, parts: Collection[str]) -> pd.DataFrame:
    """Score what `combine` returned, and say which cars are above the threshold."""
    fused = fused.assign(depth_sigma=np.clip(fit.fused_sigma_scale * fused["depth_sigma"], *SIGMA_RANGE))
    if "writing" in parts:
        fused = fit.writing.apply(fused)
    kind = "plain"
    if "calibration" in parts:
        kind = "calibrated"
        fused = fused.assign(score=fit.score.predict(features))
    fused = fused.assign(above_threshold=fused["score"] >= fit.thresholds.get(kind, 0.0))
    return _by_image_and_score(fused)


def _by_image_and_score(fused: pd.DataFrame) -> pd.DataFrame:
    order = np.lexsort((-fused["score"].to_numpy(), fused["ImageId"].to_numpy().astype(str)))
    return fused.iloc[order].reset_index(drop=True)


def combine(
    table: pd.DataFrame, fit: Fit, names: list[str], parts: Collection[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """A stacked table → fused cars with a plain score, and (C, F) features for the calibrated one.

    names: of the members, by number. The plain score is the mean of the members' scores, a member that sees
    nothing counting as 0.
    """
    if not len(table):
        none = cars.empty([*cars.POSE, "score", "depth_sigma", "agreement"])
        return none, np.empty((0, 2 * len(fit.members) + 7))
    given = _Weighted(table, fit, names, parts)
    labels = cluster(
        *(given.image, given.member, given.direction, given.log_range),
        along=ALONG * given.sigma / np.sqrt(2),
        across=(ACROSS + METRES * np.exp(-given.log_range)) / np.sqrt(2),
        priority=given.evidence,
    )
    count = labels.max() + 1

    def total(values):
        return np.bincount(labels, values, count)

    precision = given.share / given.sigma**2
    depth = total(precision * given.log_range) / total(precision)
    direction_weight = given.share / given.direction_sigma**2
    towards = np.stack([total(direction_weight * given.direction[:, axis]) for axis in range(3)], axis=1)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    rotation_weight = given.share / given.rotation_sigma**2 * sigmoid(given.evidence)
    quaternion, turn = _mean_rotation(table[QUATERNION].to_numpy(), rotation_weight, labels, count)

    agreement = total(np.ones(len(labels)))
    disagreement = total(precision * (given.log_range - depth[labels]) ** 2)
    # Members that disagree by more than they say widen the fused uncertainty (Birge's ratio, damped).
    excess = np.maximum(disagreement - (agreement - 1), 0)
    fused_sigma = np.sqrt(1 / total(precision) * (1 + excess / (agreement + 1)))

    image_of = np.empty(count, int)
    image_of[labels] = given.image
    fused = pd.DataFrame({"ImageId": given.image_ids[image_of]})
    fused[cars.ANGLES] = rotation.angles_from_quaternion(quaternion)
    fused[cars.POSITION] = towards * np.exp(depth)[:, None]
    fused["score"] = total(given.score) / len(names)
    fused["depth_sigma"] = np.clip(fused_sigma, *SIGMA_RANGE)
    fused["agreement"] = agreement.astype(int)
    if "ground" in parts:
        fused = ground.refine(fused, fit.ground)

    columns = [
        rays(fused)[1],
        np.log(fused["depth_sigma"].to_numpy()),
        np.log1p(np.sqrt(disagreement / agreement)),
        np.log1p(10 * total(turn) / agreement),
        np.log(agreement),
        logit(fused["score"].to_numpy()),
        crowded(image_of, towards, depth, total(sigmoid(given.evidence))),
    ]
    return fused, np.column_stack([_seen(given, labels, list(fit.members), names), *columns])


class _Weighted:
    """The members' cars and what is known of each by its member, one value per car.

    image: its number in image_ids; direction: (N, 3); log_range: the bias taken off; sigma: of log_range;
    direction_sigma, rotation_sigma: radians; evidence: the logit of being there.
    """

    def __init__(self, table: pd.DataFrame, fit: Fit, names: list[str], parts: Collection[str]):
        self.member, self.score = table["member"].to_numpy(), table["score"].to_numpy(float)
        self.image, image_ids = pd.factorize(table["ImageId"], sort=True)
        self.image_ids = np.asarray(image_ids, object)
        self.direction, self.log_range = rays(table)
        fitted = [fit.member(name, parts) for name in names]

        def of_member(field):
            return np.array([getattr(member, field) for member in fitted], float)[self.member]

        if "bias" in parts:
            self.log_range = self.log_range - bias(of_member("bias"), self.log_range)
        predicted, reliability = table["depth_sigma"].to_numpy(float), of_member("reliability")
        self.sigma = depth_sigma(predicted, of_member("sigma"), of_member("sigma_scale"))
        self.direction_sigma, self.rotation_sigma = of_member("direction_sigma"), of_member("rotation_sigma")
        self.share = of_member("share")
        self.evidence = reliability[:, 0] + reliability[:, 1] * logit(self.score)


def _seen(given: _Weighted, labels: np.ndarray, fitted: list[str], names: list[str]) -> np.ndarray:
    """(C, 2·members of the fit): which member sees each cluster, and the logit of its score, 0 if none."""
    column = np.array([fitted.index(name) for name in names])[given.member]
    seen = np.zeros((labels.max() + 1, 2, len(fitted)))
    seen[labels, 0, column] = 1
    seen[labels, 1, column] = logit(given.score)
    return seen.reshape(len(seen), -1)


def bias(coefficients: np.ndarray, log_range: np.ndarray) -> np.ndarray:
    """(N, 2) coefficients of 1 and log(range/40 m), (N,) log-range as predicted → (N,) error of it."""
    far = np.clip(log_range - np.log(REFERENCE_RANGE), -1.5, 1.5)
    return coefficients[:, 0] + coefficients[:, 1] * far


def depth_sigma(predicted: np.ndarray, default: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) standard deviation of log-depth: the member's own, scaled, or its default where it says none."""
    told = np.isfinite(predicted) & (predicted > 0)
    return np.clip(np.where(told, scale * np.where(told, predicted, 1.0), default), *SIGMA_RANGE)


def _mean_rotation(
    quaternions: np.ndarray, weight: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean quaternion of each cluster and each car's distance to it.

    A car seen back to front lies at 180°: the first mean decides by weight which side is right (the
    quaternions of the two sides are orthogonal, so the heavier side is the top eigenvector), the second
    leaves the other side out.
    """
    mean = np.empty((count, 4))
    mean[labels] = quaternions

    def update(clusters, weight):
        number = np.full(count, -1)
        number[clusters] = np.arange(len(clusters))
        in_cluster = number[labels] >= 0
        cars_of = quaternions[in_cluster], weight[in_cluster], number[labels[in_cluster]]
        mean[clusters] = rotation.mean_quaternion(*cars_of, len(clusters))

    update(np.flatnonzero(np.bincount(labels, minlength=count) > 1), weight)
    agrees = rotation.distance(quaternions, mean[labels]) < np.pi / 2
    update(np.unique(labels[~agrees]), weight * agrees)
    return mean, rotation.distance(quaternions, mean[labels])


def crowded(
    image: np.ndarray, direction: np.ndarray, log_range: np.ndarray, strength: np.ndarray, reach: float = 0.1
) -> np.ndarray:
    """(C,) 0 … 1: how near the nearest stronger car of the image is (1: the same place, 0: out of reach)."""
    neighbour, car = pair_search.pairs_in_range(image, log_range, image, log_range, reach)
    standing = np.empty(len(image), int)
    standing[np.lexsort((-strength, image))] = np.arange(len(image))
    stronger = standing[neighbour] < standing[car]
    car, neighbour = car[stronger], neighbour[stronger]
    position = direction * np.exp(log_range)[:, None]
    nearest = np.full(len(image), np.inf)
    apart = np.linalg.norm(position[car] - position[neighbour], axis=1) / np.exp(log_range[car])
    np.minimum.at(nearest, car, apart)
    return np.maximum(1 - nearest / reach, 0)
