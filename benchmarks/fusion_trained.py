"""Fusion of trained models against baselines, and with one of them damaged (docs/ensemble.md, 1 and 2).

In: the folder of benchmarks/pseudo_study.py: the members are its models of several seeds, which learnt from
different photos. Their fusion is fitted on one half of the held-out photos and measured on the other, and
fitted on all held-out photos and measured on the unlabelled ones by their hidden truth.

    PYTHONPATH=workflow:. python benchmarks/fusion_trained.py results/pseudo_study --output fusion.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import fusion_views
from benchmarks.pseudo_study import python
from carpose import bootstrap, cars, fuse, fusion_fit, metric

OURS = "ours"
Tables = dict[str, pd.DataFrame]


def damages(members: Tables, rng: np.random.Generator) -> dict[str, Tables]:
    """The same members with the last one spoiled in several ways."""
    *rest, last = members
    table = members[last]
    images = table["ImageId"].unique()
    other = dict(zip(images, np.roll(images, 1), strict=True))

    def with_last(changed):
        return {**{name: members[name] for name in rest}, last: changed.reset_index(drop=True)}

    farther = table.copy()
    farther[cars.POSITION] *= 1.1
    seam = table.copy()
    seam["roll"] = seam["roll"] * np.where(rng.random(len(seam)) < 0.5, 1, -1)
    return {
        "dropped": {name: members[name] for name in rest},
        "noise: the cars of another photo": with_last(table.assign(ImageId=table["ImageId"].map(other))),
        "misses half of the cars": with_last(table[rng.random(len(table)) < 0.5]),
        "a copy of another member": with_last(members[rest[0]]),
        "10 % too far": with_last(farther),
        "roll on the other side of the seam": with_last(seam),
    }


def both_ways(held_out: Tables, unlabelled: Tables, truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fused cars of the held-out photos (two halves, each by the other's fit) and of the unlabelled ones."""
    images = np.sort(truth["ImageId"].unique())
    folds = pd.DataFrame({"ImageId": images, "fold": np.arange(len(images)) % 2})
    fit, fused = fusion_fit.fit_nested(truth, folds, held_out, "given")
    return fused, fuse.fuse(unlabelled, fit)


def baselines(members: Tables, maps: pd.DataFrame, best: str) -> Tables:
    return {
        "best single": members[best],
        "linear average, 2 m gate": fusion_views.linear_average(members),
        "concatenation + NMS": fusion_views.concatenate_nms(members),
        "averaged maps": maps,
        "ours, equal weights": fuse.fuse(members),
    }


def against(truth: pd.DataFrame, reference: pd.DataFrame, tables: Tables, samples: int) -> list[dict]:
    """mAP of each table, and what the reference has more, with its 95 % interval over the photos."""
    images = np.sort(truth["ImageId"].unique())
    picks = bootstrap.draw_images(len(images), samples, np.random.default_rng(0))
    ours = metric.evaluate(truth, reference)["mAP"]
    drawn = bootstrap.resampled(truth, reference, images, picks)
    rows = []
    for name, table in tables.items():
        gain = drawn - bootstrap.resampled(truth, table, images, picks)
        low, high = np.quantile(gain, [0.025, 0.975])
        value = metric.evaluate(truth, table)["mAP"]
        rows.append({"name": name, "mAP": value, "more": ours - value, "low": low, "high": high})
    return rows


def show(title: str, ours: float, rows: list[dict], sign: int) -> None:
    print(f"\n{title}: {ours:.4f}\n\n| | mAP | difference [95 %] |\n|---|---|---|")
    for row in rows:
        low, high = sorted((sign * row["low"], sign * row["high"]))
        print(f"| {row['name']} | {row['mAP']:.4f} | {sign * row['more']:+.4f} [{low:+.4f}, {high:+.4f}] |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of benchmarks/pseudo_study.py")
    parser.add_argument("--sizes", type=int, nargs="+", default=[75, 150, 300, 600], help="labelled photos")
    parser.add_argument("--seeds", type=int, default=3, help="how many members")
    parser.add_argument("--way", default="ours", help="which of the study's models")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples of the photos")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    folder, result = args.folder, {}
    labels, hidden = cars.read(folder / "labels.parquet"), metric.read_truth(folder / "truth.csv")
    for size in args.sizes:
        cells = [folder / f"{size}-{seed}" for seed in range(args.seeds)]
        held_out = cells[0] / "held_out.parquet"
        truth = labels[labels["ImageId"].isin(pd.read_parquet(held_out).ImageId)].reset_index(drop=True)
        members = [
            {f"seed{k}": cars.read(cell / f"{args.way}_{table}.parquet") for k, cell in enumerate(cells)}
            for table in ("oof", "test")
        ]
        maps = [folder / f"maps-{args.way}-{size}-{table}.parquet" for table in ("oof", "test", "test_folds")]
        if not maps[-1].is_file():
            models = [word for cell in cells for word in ("--checkpoints", cell / f"{args.way}.pt")]
            if args.way == "none":
                models = [word for cell in cells for word in ("--checkpoints", cell / "teacher0.pt")]
            python(
                *(
                    "-m",
                    "carpose.predict",
                    *models,
                    "--cache",
                    folder / "cache",
                    "--folds",
                    held_out,
                    "--flip",
                ),
                *("--images", folder / "images.parquet", "--oof", maps[0], "--test", maps[1]),
                *("--test-folds", maps[2]),
            )
        whole = both_ways(*members, truth)
        best = max(members[0], key=lambda name: metric.evaluate(truth, members[0][name])["mAP"])
        spoiled = [damages(tables, np.random.default_rng(size)) for tables in members]
        broken = {name: both_ways(spoiled[0][name], spoiled[1][name], truth) for name in spoiled[0]}
        for photos, its_truth, number in (("held out", truth, 0), ("unlabelled", hidden, 1)):
            title = f"{size} labelled photos, measured on the {photos} ones"
            tables = baselines(members[number], cars.read(maps[number]), best)
            rows = against(its_truth, whole[number], tables, args.samples)
            value = metric.evaluate(its_truth, whole[number])["mAP"]
            show(f"{title}: fused", value, rows, 1)
            dropped = broken["dropped"][number]
            damaged = {name: tables[number] for name, tables in broken.items() if name != "dropped"}
            robust = against(its_truth, dropped, damaged, args.samples)
            show(f"{title}: one member dropped", metric.evaluate(its_truth, dropped)["mAP"], robust, -1)
            result[title] = {"fused": value, "against": rows, "damaged": robust}
    args.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
