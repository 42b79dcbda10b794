"""Labels that cannot be, or hardly can be, right."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from carpose.core import cars

from .findings import Finding
from .tables import FARTHEST

OFF_ROAD = 0.1  # of the distance: the real labels keep to 0.015 (90 %)
OFF_ROAD_METRES = 2.0


def check_labels(
    path: str, labels: pd.DataFrame, lines: Mapping[str, int], far: pd.Series, reason: str
) -> list[Finding]:
    """Findings about cars: behind the camera, in another country, upside down, off the road.

    path: the file that they are from; lines: ImageId → its line; far: (cars,) bool, left out by rule, for
    this reason.
    """
    findings = []

    def report(severity: str, rows: pd.DataFrame, finding: str | Callable[[int, dict], str], advice: str):
        for number, car in enumerate(rows.to_dict("records")):
            text = finding(number, car) if callable(finding) else finding.format(**car)
            line = int(lines[car["ImageId"]])
            findings.append(Finding(severity, path, line, car["ImageId"], text, advice))

    behind = "a car with z = {z:g} m, not in front of the camera"
    report("error", labels[labels["z"] <= 0], behind, "correct it")
    beyond = (labels[cars.POSITION].abs() > FARTHEST).any(axis=1)
    report("error", labels[beyond & ~far], "a car at x, y, z = {x:g}, {y:g}, {z:g} m", "correct it")
    turned = (labels[cars.ANGLES].abs() > 2 * np.pi).any(axis=1)
    angles = "a car with pitch, yaw, roll = {pitch:g}, {yaw:g}, {roll:g}, beyond a full turn"
    report("error", labels[turned & ~far], angles, "correct it: angles are radians")
    report("note", labels[far], "a car with z = {z:g} m is left out", reason or "nothing")
    upside_down = labels[labels["roll"].abs() < np.pi / 2]
    advice = "look at it: upside down or a wrong label"
    report("warning", upside_down, "a car with |roll| = {roll:.2f} below π/2", advice)
    kept = labels[~far & ~beyond]
    above = _above_road(kept[cars.POSITION].to_numpy(float))
    limit = np.maximum(OFF_ROAD_METRES, OFF_ROAD * np.linalg.norm(kept[cars.POSITION], axis=1))
    flying = np.abs(above) > limit
    report(
        "warning",
        kept[flying],
        lambda number, car: (
            f"a car with z = {car['z']:g} m is {above[flying][number]:+.1f} m above the common road"
        ),
        "look at it: a wrong label or a steep road",
    )
    return findings


def _above_road(xyz: np.ndarray) -> np.ndarray:
    """(N, 3) → (N,) metres above the plane y = a + b·x + c·z that fits all cars best (Huber loss, 0.5 m)."""
    if len(xyz) < 10:
        return np.zeros(len(xyz))
    design = np.column_stack([np.ones(len(xyz)), xyz[:, 0], xyz[:, 2]])
    fit = least_squares(lambda plane: design @ plane - xyz[:, 1], [1.5, 0, 0.1], loss="huber", f_scale=0.5)
    return design @ fit.x - xyz[:, 1]  # y points down
