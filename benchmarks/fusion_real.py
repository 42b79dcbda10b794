"""Fusion of noisy views of real cars against single views and published fusions (issue 4, proof 4).

In: the real train.csv and val_predictions.csv. Out: a table of mAP over several seeds, with paired
bootstrap intervals over images of our gain.

    python -m benchmarks.fusion_real ../shared/real
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import fusion_views
from carpose import bootstrap, cars, clustering, fuse, fusion_fit, kaggle, metric, rotation

UNEQUAL = {
    "good": {"depth_noise": 0.03, "missed": 0.1},
    "middling": {"depth_noise": 0.06, "depth_bias": 0.04},
    "poor": {"depth_noise": 0.10, "missed": 0.4, "false_cars": 5},
}
OURS = "ours, fitted (nested folds)"
EQUAL = "ours, equal weights"


def fusions(truth: pd.DataFrame, views: dict[str, pd.DataFrame], mode: str, folds: int = 5) -> dict:
    """Name → fused table, of every baseline and ours."""
    images = np.sort(truth["ImageId"].unique())
    parts = pd.DataFrame({"ImageId": images, "fold": np.arange(len(images)) % folds})
    equal = mode == "equal"
    best = max(views, key=lambda name: metric.evaluate(truth, views[name], images, equal)["mAP"])
    fused = fusion_fit.fit_nested(truth, parts, views, mode)[1]
    return {
        "best single": views[best],
        "linear average, 2 m gate": fusion_views.linear_average(views),
        "concatenation": fusion_views.concatenate(views),
        "concatenation + NMS": fusion_views.concatenate_nms(views),
        EQUAL: fuse.fuse(views),
        OURS: fused,
    }


def perfect_association(truth: pd.DataFrame, views: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Equal weights with every car put to its true car by `source`: what association could reach at most."""
    table = fuse.stack(views)
    source = np.concatenate([view["source"].to_numpy() for view in views.values()])
    labels = np.unique(np.where(source < 0, len(truth) + np.arange(len(table)), source), return_inverse=True)[
        1
    ]
    count = labels.max() + 1
    direction, log_range = clustering.rays(table)
    number = np.bincount(labels)
    towards = np.stack([np.bincount(labels, axis) for axis in direction.T], axis=1) / number[:, None]
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    first = np.unique(labels, return_index=True)[1]
    fused = table[["ImageId", *cars.POSE]].iloc[first].reset_index(drop=True)
    fused[cars.POSITION] = towards * np.exp(np.bincount(labels, log_range) / number)[:, None]
    mean = rotation.mean_quaternion(table[fuse.QUATERNION].to_numpy(), np.ones(len(table)), labels, count)
    fused[cars.ANGLES] = rotation.angles_from_quaternion(mean)
    return fused.assign(score=np.bincount(labels, table["score"]) / len(views))


def compare(title: str, runs: list[tuple[pd.DataFrame, dict]], mode: str, samples: int) -> None:
    """Print the mean mAP over the runs and our gain over each, with its 95 % interval."""
    rng = np.random.default_rng(0)
    equal = mode == "equal"
    values, draws = {}, {}
    for truth, tables in runs:
        images = np.sort(truth["ImageId"].unique())
        picks = bootstrap.draw_images(len(images), samples, rng)
        for name, table in tables.items():
            values.setdefault(name, []).append(metric.evaluate(truth, table, equal_confidence=equal)["mAP"])
            draws.setdefault(name, []).append(bootstrap.resampled(truth, table, images, picks, equal))
    print(f"\n{title} ({mode} confidences, {len(runs)} seeds)\n")
    print("| fusion | mAP | ± (seeds) | ours − this [95 %] |\n|---|---|---|---|")
    for name, value in values.items():
        gain = np.mean(draws[OURS], axis=0) - np.mean(draws[name], axis=0)
        low, high = np.quantile(gain, [0.025, 0.975])
        interval = (
            "" if name == OURS else f"{np.mean(values[OURS]) - np.mean(value):+.4f} [{low:+.4f}, {high:+.4f}]"
        )
        print(f"| {name} | {np.mean(value):.4f} | {np.std(value):.4f} | {interval} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fusion against baselines on real truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder with train.csv and val_predictions.csv")
    parser.add_argument("--images", type=int, default=300, help="images per seed")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--samples", type=int, default=300, help="bootstrap resamples of the images")
    parser.add_argument(
        "--mode", choices=["given", "equal"], default="given", help="the metric's confidences"
    )
    args = parser.parse_args()
    labels, image_ids = kaggle.read_labels(args.data / "train.csv")
    model, seen = kaggle.read_submission(args.data / "val_predictions.csv")

    def draw(seed, of):
        rng = np.random.default_rng(seed)
        images = rng.choice(of, min(args.images, len(of)), replace=False)
        return labels[labels["ImageId"].isin(images)].reset_index(drop=True), rng

    alike, unequal, real = [], [], []
    for seed in range(args.seeds):
        truth, rng = draw(seed, image_ids)
        views = {name: fusion_views.noisy_view(truth, rng) for name in "abc"}
        tables = {
            **fusions(truth, views, args.mode),
            "perfect association": perfect_association(truth, views),
        }
        alike.append((truth, tables))
        views = {name: fusion_views.noisy_view(truth, rng, **how) for name, how in UNEQUAL.items()}
        unequal.append((truth, fusions(truth, views, args.mode)))
        truth, rng = draw(seed, seen)
        views = {name: fusion_views.noisy_view(truth, rng) for name in "ab"}
        views["real model"] = model[model["ImageId"].isin(truth["ImageId"])]
        real.append((truth, fusions(truth, views, args.mode)))
    compare("Three views alike", alike, args.mode, args.samples)
    compare("Three views of different quality", unequal, args.mode, args.samples)
    compare("Two views and a real model's predictions", real, args.mode, args.samples)


if __name__ == "__main__":
    main()
