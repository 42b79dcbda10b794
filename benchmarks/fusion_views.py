"""Noisy views of true cars, and the fusions that others published, to measure ours against.

In: a table of true cars. Out: tables of predictions as several models might make them, and baselines.
"""

import numpy as np
import pandas as pd

from carpose import cars, rotation


def noisy_view(
    truth: pd.DataFrame,
    rng: np.random.Generator,
    missed: float = 0.2,
    depth_noise: float = 0.05,
    angle_noise: float = 0.05,
    false_cars: float = 2,
    depth_bias: float = 0.0,
    aside: float = 0.0,
    score_noise: float = 0.15,
) -> pd.DataFrame:
    """One model's view of the truth.

    missed: share of the cars not seen; depth_noise, depth_bias: of log-depth, along the ray; angle_noise:
    radians, each angle, roll on both sides of the seam; false_cars: shifted copies per image; aside:
    noise of the ray, radians. Scores are N(.7) for true and N(.35) for false cars, clipped.
    `source` is the row of the true car, −1 for a false one.
    """
    kept = rng.random(len(truth)) >= missed
    seen = truth[kept]
    images = truth["ImageId"].drop_duplicates()
    wrong = truth.set_index("ImageId").loc[np.repeat(images.to_numpy(), int(false_cars))].reset_index()
    wrong = wrong.groupby("ImageId", sort=False).sample(int(false_cars), replace=True, random_state=rng)
    shift = rng.uniform(0.15, 0.4, len(wrong)) * rng.choice([-1, 1], len(wrong))
    wrong = wrong.assign(
        x=wrong["x"] + shift * wrong["z"], z=wrong["z"] * (1 + rng.uniform(-0.3, 0.3, len(wrong)))
    )
    table = pd.concat([seen, wrong], ignore_index=True)[["ImageId", *cars.POSE]]
    source = np.append(np.flatnonzero(kept), np.full(len(wrong), -1))
    table[cars.ANGLES] += rng.normal(0, angle_noise, (len(table), 3))
    table[cars.ANGLES] = rotation.wrap(table[cars.ANGLES].to_numpy())
    position = table[cars.POSITION].to_numpy()
    position = position + aside * table[["z"]].to_numpy() * rng.normal(size=position.shape)
    table[cars.POSITION] = position * np.exp(rng.normal(depth_bias, depth_noise, (len(table), 1)))
    mean = np.where(np.arange(len(table)) < len(seen), 0.7, 0.35)
    return table.assign(score=np.clip(rng.normal(mean, score_noise), 0.01, 1), source=source)


def concatenate(members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All cars of all members."""
    return cars.concat(list(members.values()))


def concatenate_nms(members: dict[str, pd.DataFrame], gate: float = 0.1) -> pd.DataFrame:
    """All cars, less those within the gate (relative distance) of one with a higher score."""
    kept = []
    for _, table in concatenate(members).groupby("ImageId"):
        table = table.sort_values("score", ascending=False, kind="stable")
        position = table[cars.POSITION].to_numpy()
        keep = []
        for row, here in enumerate(position):
            apart = np.linalg.norm(position[keep] - here, axis=1) / np.linalg.norm(here)
            if not (apart < gate).any():
                keep.append(row)
        kept.append(table.iloc[keep])
    return cars.concat(kept)


def linear_average(members: dict[str, pd.DataFrame], gate: float = 2.0) -> pd.DataFrame:
    """The published pose fusion: cars within 2 m of the best one, score-weighted mean of the six numbers."""
    rows = []
    for image_id, table in concatenate(members).groupby("ImageId"):
        table = table.sort_values("score", ascending=False, kind="stable")
        pose, score = table[cars.POSE].to_numpy(), table["score"].to_numpy()
        free = np.ones(len(table), bool)
        for row in range(len(table)):
            if free[row]:
                near = free & (np.linalg.norm(pose[:, 3:] - pose[row, 3:], axis=1) < gate)
                free[near] = False
                rows.append(
                    (
                        image_id,
                        *np.average(pose[near], axis=0, weights=score[near]),
                        score[near].sum() / len(members),
                    )
                )
    return pd.DataFrame(rows, columns=["ImageId", *cars.POSE, "score"])
