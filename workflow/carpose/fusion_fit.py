"""Fit what the fusion needs on out-of-fold predictions: bias, weights, gate, calibration, threshold.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the honest gain of each
part, and the fused out-of-fold cars, each fold fused by what was fitted on the other folds.
"""

import argparse
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from . import UserError, cars, metric, rotation
from .calibration import fit_logistic, logit, predict_logistic
from .clustering import cluster, rays
from .files import run_main, write_text
from .fuse import (
    GATE,
    NEUTRAL,
    PARTS,
    QUATERNION,
    REFERENCE_RANGE,
    bias,
    combine,
    depth_sigma,
    finish,
    fuse,
    read_members,
    stack,
)

GATES = [{**GATE, "along": GATE["along"] * factor} for factor in (0.6, 1.6)]  # tried beside the usual one
ALONG, ACROSS = 0.3, 0.03  # how far (log-range, radians) a car may lie from the truth it is fitted to
PAYS = 0.003  # relative gain in mAP from which on a part is used
MAD = 1.4826  # median absolute deviation → standard deviation
RAYLEIGH = 1.1774  # median length of a 2-D normal vector of standard deviation 1

Members = dict[str, pd.DataFrame]


def fit(
    labels: pd.DataFrame, members: Members, image_ids: Iterable[str], groups: np.ndarray, mode: str
) -> dict:
    """Fit everything on some images.

    labels: true cars; members: predictions by name; image_ids: the images to use; groups: one int per
    image, which must stay together (their fold); mode: "given" or "equal" confidences.

    Which parts are used is decided on halves: fitted on one, measured on the other, one part after the
    other. Returns what `fuse.fuse` takes as `fit`, and under "inner" (a table, not for JSON) the cars of
    all images, each half fused by the fit on the other half, with their probability `hit` of a hit at
    the loosest thresholds and whether they `did` hit.
    """
    image_ids, names = np.asarray(list(image_ids), object), list(members)
    truth = labels[labels["ImageId"].isin(image_ids)]
    half = _halves(image_ids, np.asarray(groups))
    sides = []  # what is fitted on one half, and the other half's cars
    for side in (0, 1):
        known = fit_members(truth, members, image_ids[half != side])
        sides.append((known, stack(_of(members, image_ids[half == side]))))

    def value(tables):
        return metric.evaluate(truth, cars.concat(tables), image_ids, mode == "equal")["mAP"]

    gate, parts = _choose_geometry(sides, names, value)
    on = [part for part, found in parts.items() if found["on"]]
    scored = []  # per half: the fit on the other half, its fused cars, their features
    for side, (known, table) in enumerate(sides):
        known = fit_scores(truth, members, image_ids[half != side], {**known, "gate": gate}, on, mode)
        scored.append((known, *combine(table, known, names, on)))
    parts |= _choose_scores(scored, on, value)

    kept = [part for part, found in parts.items() if found["on"] and part != "threshold"]
    inner = []
    for known, fused, features in scored:
        fused = fused.assign(hit=predict_logistic(known["hit"], features))
        inner.append(finish(fused, features, known, kept))
    inner = cars.concat(inner)
    geometry = {**fit_members(truth, members, image_ids), "gate": gate}
    result = fit_scores(truth, members, image_ids, geometry, on, mode)
    return {**result, "parts": parts, "inner": inner.assign(did=metric.match(truth, inner)[:, 0])}


def _choose_geometry(sides, names, value):
    """The gate, and which of bias, weights and gate pay, each on top of those that do."""
    gate, parts, on = dict(GATE), {}, []

    def tried(parts, gate):
        return value([combine(table, {**known, "gate": gate}, names, parts)[0] for known, table in sides])

    best = start = tried(on, gate)
    for part in ("bias", "weights"):
        gain = tried([*on, part], gate) - best
        parts[part] = {"on": bool(gain > PAYS * start), "gain": gain}
        if parts[part]["on"]:
            on, best = [*on, part], best + gain
    values = [tried([*on, "gate"], other) for other in GATES]
    gain = max(values) - best
    parts["gate"] = {"on": bool(gain > PAYS * start), "gain": gain}
    return GATES[int(np.argmax(values))] if parts["gate"]["on"] else gate, parts


def _choose_scores(scored, on, value):
    """Which of calibration and threshold pay."""

    def tried(parts):
        return value([finish(fused, features, known, parts) for known, fused, features in scored])

    parts = {}
    best = start = tried(on)
    for part in ("calibration", "threshold"):
        gain = tried([*on, part]) - best
        parts[part] = {"on": bool(gain > PAYS * start), "gain": gain}
        if parts[part]["on"]:
            on, best = [*on, part], best + gain
    return parts


def fit_members(labels: pd.DataFrame, members: Members, image_ids: Iterable[str]) -> dict:
    """What is known of each member, with the usual gate."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(_of(members, image_ids))
    return {"members": _fit_members(truth, table, list(members)), "gate": dict(GATE)}


def fit_scores(
    labels: pd.DataFrame,
    members: Members,
    image_ids: Iterable[str],
    geometry: dict,
    parts: list[str],
    mode: str,
) -> dict:
    """Calibration, threshold and uncertainty of the cars fused with these parts of the geometry."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(_of(members, image_ids))
    fused, features = combine(table, geometry, list(members), parts)
    hits = metric.match(truth, fused)
    # The metric pays for the mean over the ten thresholds; the loosest alone says "there is a car".
    learnt = {
        "mode": mode,
        **geometry,
        "score": fit_logistic(features, hits.mean(axis=1)),
        "hit": fit_logistic(features, hits[:, 0].astype(float)),
    }
    scored = {"plain": fused, "calibrated": fused.assign(score=predict_logistic(learnt["score"], features))}
    learnt["sure"] = {name: _best_threshold(truth, table) for name, table in scored.items()}
    # With given confidences all cars are kept, their rank does the rest.
    learnt["threshold"] = learnt["sure"] if mode == "equal" else dict.fromkeys(scored, 0.0)
    pair, at = _pair_with_truth(truth, fused.assign(member=0))
    error = np.abs(rays(fused)[1][pair] - rays(truth)[1][at])
    learnt["fused_sigma_scale"] = _shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[pair], 1.0)
    return learnt


def _fit_members(truth, table, names):
    """What is known of each member: how far its cars lie from the true ones."""
    pair, at = _pair_with_truth(truth, table)
    direction, log_range = rays(table)
    true_direction, true_range = rays(truth)
    error = np.full(len(table), np.nan)
    error[pair] = log_range[pair] - true_range[at]
    aside, turn = np.full(len(table), np.nan), np.full(len(table), np.nan)
    aside[pair] = np.linalg.norm(direction[pair] - true_direction[at], axis=1)
    seen, true = table[QUATERNION].to_numpy(), rotation.quaternion(truth[cars.ANGLES].to_numpy(float))
    turn[pair] = rotation.distance(seen[pair], true[at])
    turn[turn > np.pi / 2] = np.nan  # back to front: the vote's business

    known, standard = {}, np.full((len(truth), len(names)), np.nan)
    for number, name in enumerate(names):
        own = (table["member"] == number).to_numpy()
        found = own & np.isfinite(error)
        coefficients = _fit_bias(error[found], log_range[found] - np.log(REFERENCE_RANGE))
        left = error[found] - bias(np.broadcast_to(coefficients, (found.sum(), 2)), log_range[found])
        sigma = _shrunk_scale(np.abs(left) * MAD, NEUTRAL["sigma"])
        predicted = table["depth_sigma"].to_numpy(float)[found]
        told = np.isfinite(predicted) & (predicted > 0)
        sigma_scale = _shrunk_scale(np.abs(left[told]) * MAD / predicted[told], 1.0)
        scores = table["score"].to_numpy(float)[own]
        reliability = fit_logistic(logit(scores)[:, None], np.isfinite(error[own]).astype(float))
        slope = reliability["coefficients"][0] / reliability["scale"][0]
        known[name] = {
            "bias": coefficients.tolist(),
            "sigma": sigma,
            "sigma_scale": sigma_scale,
            "direction_sigma": _shrunk_scale(aside[found] / RAYLEIGH, NEUTRAL["direction_sigma"]),
            "rotation_sigma": _shrunk_scale(turn[found][np.isfinite(turn[found])], NEUTRAL["rotation_sigma"]),
            "reliability": [reliability["intercept"] - slope * reliability["mean"][0], slope],
        }
        scaled = left / depth_sigma(predicted, np.full(len(left), sigma), np.full(len(left), sigma_scale))
        standard[at[found[pair]], number] = np.clip(scaled, -3, 3)
    for name, share in zip(names, _shares(standard), strict=True):
        known[name]["share"] = share
    return known


def _pair_with_truth(truth, table):
    """Rows of `table` that see a true car (each member each car once), and the rows of `truth` they see."""
    both = cars.concat([truth[["ImageId", *cars.POSE]], table[["ImageId", *cars.POSE]]])
    member = np.concatenate([np.zeros(len(truth), int), table["member"].to_numpy(int) + 1])
    direction, log_range = rays(both)
    labels = cluster(
        pd.factorize(both["ImageId"])[0],
        member,
        direction,
        log_range,
        along=np.full(len(both), ALONG / np.sqrt(2)),
        across=np.full(len(both), ACROSS / np.sqrt(2)),
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
        left = error - design @ coefficients
        sigma = max(MAD * np.median(np.abs(left)), 0.005) if len(left) else 1.0
        weight = np.minimum(1, 1.5 * sigma / np.maximum(np.abs(left), 1e-9)) / sigma**2
        precision = (design.T * weight) @ design + np.diag(1 / np.square(prior))
        coefficients = np.linalg.solve(precision, design.T @ (weight * error))
    return coefficients


def _shrunk_scale(sizes, prior, strength=20):
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
    both = seen.T.astype(float) @ seen.astype(float)
    spread = np.sqrt((value**2).T @ seen * (seen.T @ value**2)) + 1e-9  # of what both see
    correlation = np.clip(value.T @ value / spread, 0, 0.98) * both / (both + strength)
    np.fill_diagonal(correlation, 1.0)
    # Sums of pairwise estimates need not be positive definite: raise the smallest eigenvalue.
    lowest = np.linalg.eigvalsh(correlation)[0]
    lift = max(0.05 - lowest, 0.0)
    weights = np.linalg.solve(correlation + lift * np.eye(len(correlation)), np.ones(len(correlation)))
    return np.clip(weights * (1 + lift), 0.1, 1.0).tolist()


def _best_threshold(truth, table):
    """The score from which on cars are kept, by mAP with equal confidences.

    A car left out changes what the later ones may hit only by freeing truths, and those lie lower.
    """
    scores, hits = table["score"].to_numpy(float), metric.match(truth, table)
    if not hits.any() or not len(truth):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    found = hits[order].cumsum(axis=0)
    value = (found**2 / np.arange(1, len(order) + 1)[:, None] / len(truth)).mean(axis=1)
    # Between two cars, so that the cut does not hang on the last digit of a score.
    best = int(value.argmax())
    below = scores[order[best + 1]] if best + 1 < len(order) else 0.0
    return float((scores[order[best]] + below) / 2)


def _of(members, image_ids):
    """The members' cars on these images."""
    wanted = pd.Index(image_ids)
    return {name: table[table["ImageId"].isin(wanted)] for name, table in members.items()}


def _halves(image_ids, groups):
    """0 or 1 for each image: whole folds where there are several, else every other image by name."""
    ranks = np.unique(groups, return_inverse=True)[1]
    if ranks.max(initial=0) > 0:
        return ranks % 2
    return np.argsort(np.argsort(image_ids.astype(str))) % 2


def fit_nested(
    labels: pd.DataFrame, folds: pd.DataFrame, members: Members, mode: str
) -> tuple[dict, pd.DataFrame]:
    """The fit on all folds, and the fused cars of each fold by the fit on the others.

    Returns the JSON's content and the fused table with `fold`. Its "mAP" are honest: `fused` comes from
    fits that never saw the fold, `equal_weights` and the members need none. Under "parts", `gain` is the
    one by which the part was chosen, fitted on one half of the images and measured on the other, and
    `nested_gain` the honest one: what the part adds on top of those before it, chosen and fitted on the
    other folds. The nested gains sum to `fused` − `equal_weights`.
    """
    image_ids, groups = folds["ImageId"].to_numpy(object), folds["fold"].to_numpy()
    final = fit(labels, members, image_ids, groups, mode)
    del final["inner"]
    ladder = [[] for _ in range(len(PARTS) + 1)]  # fused with the first 0, 1 … parts, those that paid
    for fold in np.unique(groups):
        here = groups == fold
        if here.all():
            raise UserError("the folds table has one fold only; at least two are needed to fit on the others")
        learnt = fit(labels, members, image_ids[~here], groups[~here], mode)
        own = _of(members, image_ids[here])
        for step, tables in enumerate(ladder):
            on = [part for part in PARTS[:step] if learnt["parts"][part]["on"]]
            tables.append(fuse(own, learnt, on).assign(fold=int(fold)))
    ladder = [cars.concat(tables) for tables in ladder]

    def value(table):
        return metric.evaluate(labels, table, image_ids, mode == "equal")["mAP"]

    values = [value(table) for table in ladder]
    for part, gain in zip(PARTS, np.diff(values), strict=True):
        final["parts"][part]["nested_gain"] = float(gain)
    final["mAP"] = {
        "fused": values[-1],
        "equal_weights": values[0],
        "members": {name: value(table) for name, table in members.items()},
    }
    return final, ladder[-1]


def _report(final):
    """Lines for the log."""
    value = final["mAP"]
    yield f"mAP ({final['mode']} confidences), out of fold:"
    for name, single in sorted(value["members"].items(), key=lambda item: -item[1]):
        yield f"  {single:.4f}  {name}"
    yield f"  {value['equal_weights']:.4f}  fused, equal weights"
    yield f"  {value['fused']:.4f}  fused, fitted on the other folds"
    for part, found in final["parts"].items():
        state = "on" if found["on"] else "off: does not pay"
        yield f"  {part:12s} {found['nested_gain']:+.4f} nested, {found['gain']:+.4f} when chosen  {state}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fit the fusion on out-of-fold predictions.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--labels", required=True, help="labels.parquet: the true cars")
    parser.add_argument(
        "--folds", required=True, help="folds.parquet: ImageId, fold; only these images are used"
    )
    parser.add_argument(
        "--members",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="out-of-fold predictions (oof.parquet)",
    )
    parser.add_argument(
        "--mode",
        choices=["given", "equal"],
        default="given",
        help="the metric's confidences: as given, or all equal, as the leaderboard was found to do",
    )
    parser.add_argument("--output", required=True, help="JSON for carpose.fuse --weights")
    parser.add_argument(
        "--fused-output", required=True, help="Parquet: the fused cars, each fold by the others' fit"
    )
    args = parser.parse_args()
    members = read_members(args.members)[0]
    folds = pd.read_parquet(args.folds)
    final, fused = fit_nested(cars.read(args.labels), folds, members, args.mode)
    cars.write(args.fused_output, fused)
    write_text(args.output, json.dumps(final, indent=1))
    print("\n".join(_report(final)))


if __name__ == "__main__":
    run_main(main)
