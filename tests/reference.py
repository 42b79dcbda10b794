"""Slow, literal versions of what carpose computes in arrays, and fusion methods published by others.

Tests compare with them.
"""

import itertools
from math import acos, cos, degrees, pi, sin

import cv2
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from carpose.core import cars
from carpose.geometry import camera, meshes

FINE = 4  # an outline is traced in squares of 1/FINE pixel
MARGIN = 50  # pixels around the picture within which outlines are traced


def rotation_distance(p, g):
    true = Rotation.from_euler("xyz", [g["pitch"], g["yaw"], g["roll"]])
    other = Rotation.from_euler("xyz", [p["pitch"], p["yaw"], p["roll"]])
    w = np.clip((other.inv() * true).as_quat()[3], -1.0, 1.0)
    angle = acos(w) * 360 / pi
    return 360 - angle if angle > 180 else angle


def leaderboard_quaternion(car):
    """w, x, y, z of `CreateFromYawPitchRoll(yaw, pitch, roll)`, which the competition's page uses, as .NET
    documents it."""
    (cp, sp), (cy, sy), (cr, sr) = ((cos(car[k] / 2), sin(car[k] / 2)) for k in ("pitch", "yaw", "roll"))
    return (
        cy * cp * cr + sy * sp * sr,
        cy * sp * cr + sy * cp * sr,
        sy * cp * cr - cy * sp * sr,
        cy * cp * sr - sy * sp * cr,
    )


def leaderboard_distance(p, g):
    """acos(W) of q₁·q₂⁻¹ in degrees: W of a product is w₁·w₂ minus the scalar product of the vectors."""
    (w1, x1, y1, z1), (w2, x2, y2, z2) = leaderboard_quaternion(p), leaderboard_quaternion(g)
    w = w1 * w2 - (x1 * -x2 + y1 * -y2 + z1 * -z2)
    return degrees(acos(min(max(w, -1.0), 1.0)))


def metric(truth, predictions, image_ids, mode="given"):
    """The metric as described, a loop over thresholds, images and cars: ten AP and ten numbers of hits."""
    turn = leaderboard_distance if mode == "leaderboard" else rotation_distance
    ap, hits_per_pair = [], []
    truth = {name: rows.to_dict("records") for name, rows in truth.groupby("ImageId")}
    predictions = {name: rows.to_dict("records") for name, rows in predictions.groupby("ImageId")}
    for distance_limit, rotation_limit in zip(np.arange(10, 0, -1) / 100, range(50, 0, -5), strict=True):
        hits, scores = [], []
        for image in image_ids:
            remaining = list(truth.get(image, []))
            for p in sorted(predictions.get(image, []), key=lambda car: -car["score"]):
                nearest, turned, chosen = np.inf, np.inf, None
                for index, g in enumerate(remaining):
                    error = (
                        sum((p[k] - g[k]) ** 2 for k in "xyz") ** 0.5 / sum(g[k] ** 2 for k in "xyz") ** 0.5
                    )
                    if error < nearest:
                        nearest, turned, chosen = error, turn(p, g), index
                hit = nearest < distance_limit and turned < rotation_limit
                if hit:
                    remaining.pop(chosen)
                hits.append(hit)
                scores.append(p["score"] if mode == "given" else 1.0)
        hits, scores = np.array(hits, bool), np.array(scores)
        truths = sum(len(truth.get(image, [])) for image in image_ids)
        recall_before, total = 0.0, 0.0
        for limit in sorted(set(scores), reverse=True):
            kept = scores >= limit
            recall = hits[kept].sum() / max(hits.sum(), 1)
            total += (recall - recall_before) * hits[kept].mean()
            recall_before = recall
        ap.append(total * hits.sum() / truths)
        hits_per_pair.append(int(hits.sum()))
    return ap, hits_per_pair


def heatmap(column, row, sigma, size):
    """One Gaussian over the whole map for each car, and the maximum of all: (height, width)."""
    width, height = size
    result = np.zeros((height, width), np.float32)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    for x, y, s in zip(column, row, sigma, strict=True):
        gaussian = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * s * s))
        result = np.maximum(result, gaussian)
    return result


def targets(xyz, turn, intrinsics, size, focal_reference, train_config):
    """All targets of one photo's labelled cars, car by car and cell by cell: the heat map, and by cell the
    weight, offset, log depth and rotation it learns."""
    width, height = size
    cells, peaks = {}, []
    focal = camera.focal(intrinsics)
    for position, matrix in zip(xyz, turn, strict=True):
        u, v = camera.project(intrinsics, position)
        column, row = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
        if not (0 <= column < width and 0 <= row < height):
            continue
        peaks.append((column, row, max(train_config.radius * 1.5 * focal / position[2], 0.7)))
        yaw, pitch, roll = Rotation.from_matrix(matrix).as_euler("yxz")
        sines = [f(a) for a in (yaw, pitch, roll + pi) for f in (np.sin, np.cos)]
        depth = np.log(position[2] * focal_reference / (focal * 35.0))
        for y, x in itertools.product(range(row - 1, row + 2), range(column - 1, column + 2)):
            away = (u - x) ** 2 + (v - y) ** 2
            if 0 <= x < width and 0 <= y < height and away < cells.get((y, x), (np.inf,))[0]:
                cells[y, x] = away, np.exp(-away / 2), [u - x, v - y], depth, sines
    return heatmap(*zip(*peaks, strict=True), size), cells


def peaks(heat, threshold):
    """Cells above the threshold and all their neighbours, found cell by cell: a list of (row, column)."""
    height, width = heat.shape
    cells = []
    for row, column in itertools.product(range(height), range(width)):
        value = heat[row, column]
        if value < threshold:
            continue
        around = heat[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if value == around.max():
            cells.append((row, column))
    return cells


def outline(intrinsics, rotation, position, mesh, size):
    """The silhouette of a car: the union of its projected faces, traced.

    intrinsics: 3×3 of this picture; rotation: 3×3; position: (3,) metres, camera frame; size: width and
    height of the picture → polygons (P, 2) in pixels, cut at MARGIN pixels outside the picture. Faces
    nearer than meshes.NEAR are left out; nothing visible gives an empty list.
    """
    points = mesh.vertices @ rotation.T + position
    faces = mesh.faces[(points[mesh.faces, 2] > meshes.NEAR).all(axis=1)]
    if not len(faces):
        return []
    used = np.unique(faces)
    pixels = np.zeros((len(points), 2))
    pixels[used] = camera.project(intrinsics, points[used])
    # The canvas is a FINE times finer picture of the part of the frame that the car covers.
    low = np.floor(np.maximum(pixels[used].min(axis=0) - 1, -MARGIN))
    high = np.ceil(np.minimum(pixels[used].max(axis=0) + 1, np.array(size) + MARGIN))
    if (high <= low).any():
        return []
    width, height = ((high - low) * FINE).astype(int)
    canvas = np.zeros((height, width), np.uint8)
    corners = (pixels[faces] - low) * FINE
    for triangle in meshes.fixed_point(corners):
        cv2.fillConvexPoly(canvas, triangle, 1, shift=meshes.FIXED_POINT)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0] / FINE + low for contour in contours]


def fuse_image(rows: list[dict], gate: float = 0.1) -> list[dict]:
    """Fusion of one image car by car: the free car of the highest score takes every free car within the gate
    and is replaced by the mean of all."""
    rows, fused = sorted(rows, key=lambda car: -car["score"]), []
    while rows:
        seed, near, far = rows[0], [], []
        for car in rows:
            distance = sum((car[k] - seed[k]) ** 2 for k in "xyz") ** 0.5
            (near if distance < gate * seed["z"] else far).append(car)
        mean = {k: sum(car[k] for car in near) / len(near) for k in ("x", "y", "z", "score")}
        turns = [Rotation.from_euler("yxz", [car["yaw"], car["pitch"], car["roll"]]) for car in near]
        mean["rotation"] = Rotation.concatenate(turns).mean().as_quat()
        fused.append(mean)
        rows = far
    return fused


def fuse(tables: list[pd.DataFrame], image_ids: list[str]) -> list[list[dict]]:
    """All images, one after the other."""
    table = pd.concat(tables)
    by_image = {name: rows.to_dict("records") for name, rows in table.groupby("ImageId")}
    return [fuse_image(by_image.get(image, [])) for image in image_ids]


def concatenate(members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All cars of all members."""
    return cars.concat(list(members.values()))


def concatenate_nms(members: dict[str, pd.DataFrame], gate: float = 0.1) -> pd.DataFrame:
    """All cars except those within the gate (relative distance) of one with a higher score."""
    kept = []
    for _, table in concatenate(members).groupby("ImageId"):
        table = table.sort_values("score", ascending=False, kind="stable")
        position = table[cars.POSITION].to_numpy()
        keep = []
        for row, point in enumerate(position):
            apart = np.linalg.norm(position[keep] - point, axis=1) / np.linalg.norm(point)
            if not (apart < gate).any():
                keep.append(row)
        kept.append(table.iloc[keep])
    return cars.concat(kept)


def linear_average(members: dict[str, pd.DataFrame], gate: float = 2.0) -> pd.DataFrame:
    """The published pose fusion: score-weighted mean of the six pose numbers of cars within 2 m of the
    best."""
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
