"""Fusion of the cars of several models (or submission files) into one table.

In: tables of cars with score, one per member, and the fit of carpose.fusion_fit (or none: equal weights).
Out: a table of cars with score and depth_sigma, as Parquet or as a submission CSV.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from . import UserError, cars, ground, kaggle, parquet, rotation, runs
from .calibration import logit, predict_logistic, sigmoid
from .clustering import cluster, rays
from .files import check_outputs, run_main
from .folds import hashes_of, near_duplicates
from .ground import SIGMA
from .options import whole

SIGMA_RANGE = 0.01, 0.3
QUATERNION = ["qx", "qy", "qz", "qw"]
PARTS = ["bias", "weights", "members", "gate", "ground", "threshold", "calibration"]
NEUTRAL = {
    "bias": [0.0, 0.0],
    "sigma": SIGMA,
    "sigma_scale": 1.0,
    "direction_sigma": 0.005,
    "rotation_sigma": 0.1,
    "share": 1.0,
    "reliability": [0.0, 1.0],
}
GATE = {"along": 3.0, "across": 0.02, "metres": 0.3}
REFERENCE_RANGE = 40.0  # metres, where the bias is its first coefficient


def equal_fit(names: list[str]) -> dict:
    """The fit that knows nothing: all members alike."""
    return {"members": {name: dict(NEUTRAL) for name in names}, "gate": dict(GATE), "parts": {}}


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
    members: dict[str, pd.DataFrame], fit: dict | None = None, parts: list[str] | None = None
) -> pd.DataFrame:
    """Cluster and average the members' cars.

    members: tables of cars with score; fit: of carpose.fusion_fit, its members keyed by these names
    (default: equal weights); parts: which parts of the fit to use (default: those it found to pay).

    Returns ImageId, pose, score, depth_sigma, agreement (how many members) and sure (to be kept if all
    confidences were equal: the cars to look at), by image and falling score. Raises UserError where the
    fit does not know a member.
    """
    fit = fit or equal_fit(list(members))
    unknown = [name for name in members if name not in fit["members"]]
    if unknown:
        raise UserError(
            f"the fit knows no member {unknown[0]}, only {', '.join(fit['members'])}; fit it again"
        )
    parts = paying(fit) if parts is None else parts
    if "members" in parts:
        used = {name: table for name, table in members.items() if name in fit["used"]}
        if members and not used:
            raise UserError(
                f"the fit leaves out {', '.join(members)} and uses {', '.join(fit['used'])}, which are not"
                " given; fit these members again"
            )
        members = used
    fused, features = combine(stack(members), fit, list(members), parts)
    return finish(fused, features, fit, parts)


def finish(fused: pd.DataFrame, features: np.ndarray, fit: dict, parts: list[str]) -> pd.DataFrame:
    """Score what `combine` returned and leave out what lies below the threshold."""
    scale = fit.get("fused_sigma_scale", 1.0)
    fused = fused.assign(depth_sigma=np.clip(scale * fused["depth_sigma"], *SIGMA_RANGE))
    if "calibration" in parts:
        fused = fused.assign(score=predict_logistic(fit["score"], features))
    fused = fused.assign(sure=fused["score"] >= sure_from(fit, parts))
    if "threshold" in parts:
        fused = fused[fused["score"] >= fit["threshold"][_kind(parts)]]
    order = np.lexsort((-fused["score"].to_numpy(), fused["ImageId"].to_numpy().astype(str)))
    return fused.iloc[order].reset_index(drop=True)


def sure_from(fit: dict, parts: list[str]) -> float:
    """The score from which a car is to be kept if all confidences were equal."""
    return fit.get("sure", {}).get(_kind(parts), 0.0)


def _kind(parts):
    return "calibrated" if "calibration" in parts else "plain"


def paying(fit: dict) -> list[str]:
    """The parts of a fit that it found to pay."""
    return [part for part in PARTS if fit["parts"].get(part, {}).get("on")]


def combine(
    table: pd.DataFrame, fit: dict, names: list[str], parts: list[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """A stacked table → fused cars with a plain score, and (C, F) features for the calibrated one.

    The plain score is the mean of the members' scores, a member that sees nothing counting as 0.
    """
    if not len(table):
        return cars.empty([*cars.POSE, "score", "depth_sigma", "agreement"]), np.empty(
            (0, 2 * len(fit["members"]) + 7)
        )
    member = table["member"].to_numpy()
    image, image_ids = pd.factorize(table["ImageId"], sort=True)
    score = table["score"].to_numpy(float)
    direction, log_range = rays(table)
    own = _of_members(fit, names, parts)[member]  # rows of what is known of each car's member
    if "bias" in parts:
        log_range = log_range - bias(own[:, :2], log_range)
    sigma = depth_sigma(table["depth_sigma"].to_numpy(float), own[:, 2], own[:, 3])
    evidence = own[:, 7] + own[:, 8] * logit(score)

    gate = fit["gate"] if "gate" in parts else GATE
    labels = cluster(
        image,
        member,
        direction,
        log_range,
        along=gate["along"] * sigma / np.sqrt(2),
        across=(gate["across"] + gate["metres"] * np.exp(-log_range)) / np.sqrt(2),
        priority=evidence,
    )
    count = labels.max() + 1

    def total(values):
        return np.bincount(labels, values, count)

    precision = own[:, 6] / sigma**2
    depth = total(precision * log_range) / total(precision)
    steadiness = own[:, 6] / own[:, 4] ** 2
    towards = np.stack([total(steadiness * direction[:, axis]) for axis in range(3)], axis=1)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    quaternion, turn = _mean_rotation(
        table[QUATERNION].to_numpy(), own[:, 6] / own[:, 5] ** 2 * sigmoid(evidence), labels, count
    )

    agreement = total(np.ones(len(labels)))
    surplus = total(precision * (log_range - depth[labels]) ** 2) - (agreement - 1)
    # Members that disagree by more than they say widen the fused uncertainty (Birge's ratio, damped).
    fused_sigma = np.sqrt(1 / total(precision) * (1 + np.maximum(surplus, 0) / (agreement + 1)))
    fused_sigma = np.clip(fused_sigma, *SIGMA_RANGE)

    image_of = np.empty(count, int)
    image_of[labels] = image
    fused = pd.DataFrame({"ImageId": np.asarray(image_ids, object)[image_of]})
    fused[cars.ANGLES] = rotation.angles_from_quaternion(quaternion)
    fused[cars.POSITION] = towards * np.exp(depth)[:, None]
    fused["score"] = total(score) / len(names)
    fused["depth_sigma"] = fused_sigma
    fused["agreement"] = agreement.astype(int)
    if "ground" in parts:
        fused = ground.refine(fused, fit["ground"])

    column = np.array([list(fit["members"]).index(name) for name in names])[member]
    seen = np.zeros((count, 2, len(fit["members"])))
    seen[labels, 0, column] = 1
    seen[labels, 1, column] = logit(score)
    spread = np.sqrt(total(precision * (log_range - depth[labels]) ** 2) / agreement)
    features = np.column_stack(
        [
            seen.reshape(count, -1),
            rays(fused)[1],
            np.log(fused["depth_sigma"].to_numpy()),
            np.log1p(spread),
            np.log1p(10 * total(turn) / agreement),
            np.log(agreement),
            logit(fused["score"].to_numpy()),
            _crowded(image_of, towards, depth, total(sigmoid(evidence))),
        ]
    )
    return fused, features


def fuse_duplicates(fused: pd.DataFrame, groups: pd.Series, sure: float) -> pd.DataFrame:
    """Fused cars, those of nearly the same photos fused once more: each photo is a member for the others.

    groups: group of each photo, by ImageId; sure: the score from which a car is sure. A car that its
    photo's twins do not have loses score: where the traffic moves and the camera stands still this harms.
    Returns what `fuse` returns; photos without a twin keep their cars as they are.
    """
    photos = groups.rename("group").rename_axis("ImageId").reset_index()
    photos["size"] = photos.groupby("group")["ImageId"].transform("size")
    photos["member"] = photos.groupby("group").cumcount()
    photos = photos[photos["size"] > 1]
    parts = [fused[~fused["ImageId"].isin(photos["ImageId"])]]
    for size, twins in photos.groupby("size"):
        shown = fused.merge(twins, on="ImageId")
        pairs = shown.merge(twins[["group", "ImageId"]], on="group", suffixes=("_from", ""))
        tables = {str(member): table for member, table in pairs.groupby("member")}
        names = list(tables)
        together, _ = combine(stack(tables), equal_fit(names), names, [])
        # The score is a mean over all photos of the group, also those in which nothing was seen.
        together["score"] *= len(names) / size
        parts.append(together.assign(sure=together["score"] >= sure))
    result = cars.concat(parts)
    order = np.lexsort((-result["score"].to_numpy(), result["ImageId"].to_numpy().astype(str)))
    return result.iloc[order].reset_index(drop=True)


def _of_members(fit, names, parts):
    """(M, 9): bias ×2, sigma, its scale, direction and rotation sigma, share, reliability ×2."""
    known = []
    for name in names:
        member = fit["members"][name]
        weights = member if "weights" in parts else NEUTRAL
        known.append(
            [
                *member["bias"],
                *(
                    weights[key]
                    for key in ("sigma", "sigma_scale", "direction_sigma", "rotation_sigma", "share")
                ),
                *weights["reliability"],
            ]
        )
    return np.array(known)


def bias(coefficients: np.ndarray, log_range: np.ndarray) -> np.ndarray:
    """(N, 2) coefficients of 1 and log(range/40 m), (N,) log-range as predicted → (N,) error of it."""
    far = np.clip(log_range - np.log(REFERENCE_RANGE), -1.5, 1.5)
    return coefficients[:, 0] + coefficients[:, 1] * far


def depth_sigma(predicted: np.ndarray, default: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) standard deviation of log-depth: the member's own, scaled, or its default where it says none."""
    known = np.isfinite(predicted) & (predicted > 0)
    return np.clip(np.where(known, scale * np.where(known, predicted, 1.0), default), *SIGMA_RANGE)


def _mean_rotation(quaternions, weight, labels, count):
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
        own = number[labels] >= 0
        mean[clusters] = rotation.mean_quaternion(
            quaternions[own], weight[own], number[labels[own]], len(clusters)
        )

    update(np.flatnonzero(np.bincount(labels, minlength=count) > 1), weight)
    agrees = rotation.distance(quaternions, mean[labels]) < np.pi / 2
    update(np.unique(labels[~agrees]), weight * agrees)
    return mean, rotation.distance(quaternions, mean[labels])


def _crowded(image, direction, log_range, strength, reach=0.1):
    """(C,) 0 … 1: how near the nearest stronger car of the image is (1: the same place, 0: out of reach)."""
    other, car = runs.alike(image, log_range, image, log_range, reach)
    standing = np.empty(len(image), int)
    standing[np.lexsort((-strength, image))] = np.arange(len(image))
    stronger = standing[other] < standing[car]
    car, other = car[stronger], other[stronger]
    position = direction * np.exp(log_range)[:, None]
    nearest = np.full(len(image), np.inf)
    apart = np.linalg.norm(position[car] - position[other], axis=1) / np.exp(log_range[car])
    np.minimum.at(nearest, car, apart)
    return np.maximum(1 - nearest / reach, 0)


def read_member(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Cars with score of a Parquet table or a submission CSV, and the images it is about.

    Raises UserError where a car could not be sent.
    """
    if Path(path).suffix == ".csv":
        return kaggle.read_submission(path)
    table = cars.read(path, scored=True)
    kaggle.stop_at_first(kaggle.impossible(path, table))
    return table, list(table["ImageId"].unique())


def read_members(arguments: list[str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """`NAME=PATH` or `PATH` (named by its stem) … → tables by name, and all images in order of appearance.

    Raises UserError where a name is given twice.
    """
    members, images = {}, {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            name, path = Path(argument).stem, argument
        if not name or not path:
            raise UserError(f"{argument!r}: give each member as NAME=PATH, or PATH")
        if name in members:
            raise UserError(f"two members are called {name}; name them apart as NAME={path}")
        members[name], seen = read_member(path)
        images.update(dict.fromkeys(seen))
    return members, list(images)


def read_fit(path: str | Path) -> dict:
    try:
        fit = json.loads(Path(path).read_text())
        # What the fusion will ask of it.
        paying(fit)
        np.array(_of_members(fit, fit["members"], PARTS), float).reshape(-1, 9)
        _ = [fit[key] for key in ("used", "gate", "ground", "score", "threshold")]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a fit of carpose.fusion_fit ({reason}); fit it again") from error
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fuse cars of several models or submission files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="submission CSVs or Parquet tables of cars; without NAME= the file's stem is the name",
    )
    parser.add_argument("--weights", help="JSON of carpose.fusion_fit; without it all members count the same")
    parser.add_argument(
        "--sample",
        help="sample_submission.csv: the images of a CSV output and their order, instead of the inputs'",
    )
    parser.add_argument("--images", help="images.parquet of the check: fuse nearly equal photos together")
    parser.add_argument(
        "--hash-distance", type=whole(0), default=2, help="bits in which hashes of equal photos may differ"
    )
    parser.add_argument("--output", required=True, help="a submission (.csv) or a table of cars (.parquet)")
    args = parser.parse_args()
    if (suffix := Path(args.output).suffix) not in (".csv", ".parquet"):
        raise UserError(f"{args.output}: {suffix or 'no suffix'} is no format; name it .csv or .parquet")
    check_outputs(Path(args.output))
    members, image_ids = read_members(args.inputs)
    fit = read_fit(args.weights) if args.weights else equal_fit(list(members))
    fused = fuse(members, fit)
    if args.images:
        images = parquet.read_images(args.images).query("split == 'test' and excluded == ''")
        groups = pd.Series(near_duplicates(hashes_of(images), args.hash_distance), images["ImageId"])
        fused = fuse_duplicates(fused, groups, sure_from(fit, paying(fit)))
        print(f"{groups.duplicated(keep=False).sum()} photos have a twin")
    if args.sample:
        image_ids = kaggle.read_sample(args.sample)
    if Path(args.output).suffix == ".csv":
        kaggle.write_submission(args.output, fused, image_ids)
    else:
        cars.write(args.output, fused)
    before = sum(map(len, members.values()))
    print(f"{args.output}: {len(fused)} cars from {before} of {len(members)} members")


if __name__ == "__main__":
    run_main(main)
