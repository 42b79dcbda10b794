"""Fit what the fusion needs on out-of-fold predictions: which members, and the parts of carpose.fuse.

In: labels, folds and the members' oof.parquet. Out: a JSON for carpose.fuse, with the honest gain of each
part, and the fused out-of-fold cars, each fold fused by what was fitted on the other folds.
"""

import argparse
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from . import UserError, cars, ground, metric, parquet
from .calibration import fit_logistic, predict_logistic
from .clustering import rays
from .files import run_main, write_text
from .fuse import GATE, PARTS, combine, finish, fuse, read_members, stack
from .fusion_members import MAD, Members, fit_members, of_images, pair_with_truth, shrunk_scale

GATES = [{**GATE, "along": GATE["along"] * factor} for factor in (0.6, 1.6)]  # tried beside the usual one
PAYS = 0.003  # relative gain in mAP from which on a part is used


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
    image_ids = np.asarray(list(image_ids), object)
    truth = labels[labels["ImageId"].isin(image_ids)]
    half = _halves(image_ids, np.asarray(groups))
    sides = [(image_ids[half != side], image_ids[half == side]) for side in (0, 1)]

    def value(tables):
        return metric.evaluate(truth, cars.concat(tables), image_ids, mode == "equal")["mAP"]

    def known_of(members):
        """Per half: what is known of members and ground by the other half, and this half's cars."""
        return [(geometry(members, rest), stack(of_images(members, own))) for rest, own in sides]

    def geometry(members, images):
        prior = ground.fit_prior(truth[truth["ImageId"].isin(images)])
        return {**fit_members(truth, members, images), "ground": prior}

    def scored(members, gate, on):
        """Per half: the fit on the other half, the cars of this half fused by it, their features."""
        fused = []
        for (known, table), (rest, _) in zip(known_of(members), sides, strict=True):
            known = fit_scores(truth, members, rest, {**known, "gate": gate}, on, mode)
            fused.append((known, *combine(table, known, list(members), on)))
        return fused

    everyone = fit_members(truth, members, image_ids)["members"]
    singles = {name: value([of_images(members, image_ids)[name]]) for name in members}
    parts = _choose_weights(known_of(members), list(members), value)
    on = [part for part, found in parts.items() if found["on"]]
    used, parts["members"] = _choose_members(
        sorted(members, key=lambda name: -singles[name]),
        lambda names: scored({name: members[name] for name in names}, GATE, on),
        value,
    )
    members = {name: table for name, table in members.items() if name in used}  # in their own order
    gate, parts["gate"] = _choose_gate(known_of(members), list(members), on, value)
    on = [part for part in PARTS if parts.get(part, {}).get("on")]
    known = [({**known, "gate": gate}, table) for known, table in known_of(members)]
    on, parts["ground"] = _choose_ground(known, list(members), on, value)
    halves = scored(members, gate, on)
    parts |= _choose_scores(halves, on, value)

    kept = [part for part, found in parts.items() if found["on"] and part != "threshold"]
    inner = []
    for known, fused, features in halves:
        fused = fused.assign(hit=predict_logistic(known["hit"], features))
        inner.append(finish(fused, features, known, kept))
    inner = cars.concat(inner)
    known = geometry(members, image_ids)
    known |= {"members": {**everyone, **known["members"]}, "used": list(members), "gate": gate}
    result = fit_scores(truth, members, image_ids, known, on, mode)
    return {**result, "parts": parts, "inner": inner.assign(did=metric.match(truth, inner)[:, 0])}


def _part(gain, start):
    return {"on": bool(gain > PAYS * start), "gain": gain}


def _choose_weights(sides, names, value):
    """Which of bias and weights pay, each on top of those that do."""
    parts, on = {}, []
    best = start = value([combine(table, known, names, on)[0] for known, table in sides])
    for part in ("bias", "weights"):
        gain = value([combine(table, known, names, [*on, part])[0] for known, table in sides]) - best
        parts[part] = _part(gain, start)
        if parts[part]["on"]:
            on, best = [*on, part], best + gain
    return parts


def _choose_members(names, scored, value):
    """The best k members (names: best first), k where their calibrated fusion is best."""
    counts = [len(names)]
    while counts[-1] > 1:  # a third fewer each time: with many members one more or less is no matter
        counts.append(max(counts[-1] * 2 // 3, 1))
    values = [
        value(
            [finish(fused, features, known, ["calibration", "threshold"]) for known, fused, features in found]
        )
        for found in (scored(names[:count]) for count in counts)
    ]
    part = _part(max(values) - values[0], values[0])
    return names[: counts[int(np.argmax(values))] if part["on"] else None], part


def _choose_gate(sides, names, on, value):
    """The gate, and whether another than the usual one pays."""

    def tried(parts, gate):
        return value([combine(table, {**known, "gate": gate}, names, parts)[0] for known, table in sides])

    start = tried(on, GATE)
    values = [tried([*on, "gate"], other) for other in GATES]
    part = _part(max(values) - start, start)
    return GATES[int(np.argmax(values))] if part["on"] else dict(GATE), part


def _choose_ground(sides, names, on, value):
    """The parts that are on, and whether the photos' ground pays, which is then one of them."""

    def tried(parts):
        return value([combine(table, known, names, parts)[0] for known, table in sides])

    start = tried(on)
    part = _part(tried([*on, "ground"]) - start, start)
    return [*on, "ground"] if part["on"] else on, part


def _choose_scores(scored, on, value):
    """Which of threshold and calibration pay.

    Where all confidences are equal, scores decide nothing but which cars are kept: so calibration is tried
    above the thresholds. With given confidences these are 0.
    """

    def tried(*parts):
        return value([finish(fused, features, known, [*on, *parts]) for known, fused, features in scored])

    cut = tried("threshold")
    calibration = _part(tried("threshold", "calibration") - cut, cut)
    chosen = ["calibration"] if calibration["on"] else []
    start = tried(*chosen)
    threshold = _part(tried("threshold", *chosen) - start, start)
    return {"threshold": threshold, "calibration": calibration}


def fit_scores(
    labels: pd.DataFrame,
    members: Members,
    image_ids: Iterable[str],
    geometry: dict,
    parts: list[str],
    mode: str,
) -> dict:
    """Calibration, threshold and uncertainty of the cars fused with these parts of the geometry."""
    truth, table = labels[labels["ImageId"].isin(image_ids)], stack(of_images(members, image_ids))
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
    learnt["sure"] = {name: best_threshold(truth, table) for name, table in scored.items()}
    # With given confidences all cars are kept, their rank does the rest.
    learnt["threshold"] = learnt["sure"] if mode == "equal" else dict.fromkeys(scored, 0.0)
    pair, at = pair_with_truth(truth, fused.assign(member=0))
    error = np.abs(rays(fused)[1][pair] - rays(truth)[1][at])
    learnt["fused_sigma_scale"] = shrunk_scale(MAD * error / fused["depth_sigma"].to_numpy(float)[pair], 1.0)
    return learnt


def best_threshold(truth, table):
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
        own = of_images(members, image_ids[here])
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
    yield f"used: {', '.join(final['used'])}"
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
    folds = parquet.read_folds(args.folds)
    final, fused = fit_nested(cars.read(args.labels), folds, members, args.mode)
    cars.write(args.fused_output, fused)
    write_text(args.output, json.dumps(final, indent=1))
    print("\n".join(_report(final)))


if __name__ == "__main__":
    run_main(main)
