"""Whether an ONNX file gives the cars that torch gives: both on the same photos, decoded by carpose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from carpose.config.sections import Predict
from carpose.core.cars import ANGLES, POSITION
from carpose.data.photo_files import check_camera, check_photos, find_photos
from carpose.geometry import camera, rotation
from carpose.predict.members import Member, load_members
from carpose.predict.photos import predict_members
from models.layers import HEATMAP

from .onnx import INPUT, package

CPU = torch.device("cpu")
RELATIVE, DEGREES, SCORE = 1e-3, 0.1, 1e-3  # how far cars may be apart: of the distance, rotation, score
NEAREST = 0.01  # of the distance: how far two cars may lie apart and be one


class OnnxNetwork(torch.nn.Module):
    """An ONNX file in place of a models.predictor.Predictor: the same cells, taken from dense maps."""

    def __init__(self, path: Path):
        super().__init__()
        runtime = package("onnxruntime")
        self.session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(B, C, H, W) float32 → logits of the heat map, and all other maps by name in place of features."""
        pictures = x.permute(0, 2, 3, 1).contiguous().numpy()
        values = map(torch.from_numpy, self.session.run(self.names, {INPUT: pictures}))
        maps = dict(zip(self.names, values, strict=True))
        return maps.pop(HEATMAP), maps

    def outputs_at(self, features: dict[str, torch.Tensor], cells: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])[cells]
            for name, values in features.items()
        }


@dataclass(frozen=True)
class Comparison:
    """torch's cars and another runtime's: how many, how many have no partner, the greatest differences."""

    cars: int
    alone: int
    distance: float  # of the distance to the camera
    degrees: float
    score: float

    def agrees(self) -> bool:
        """Whether there were cars, and all of them are the same."""
        if not self.cars or self.alone:
            return False
        return self.distance < RELATIVE and self.degrees < DEGREES and self.score < SCORE

    def __str__(self) -> str:
        if not self.cars + self.alone:
            return "neither finds a car on these photos, give others"
        partners = f"{self.alone} of them found by one alone" if self.alone else "each found by both"
        apart = (
            f"{self.distance:.1e} of the distance, {self.degrees:.1e} degrees, {self.score:.1e} of the score"
        )
        return f"{self.cars} cars, {partners}; at most {apart} apart"


def verify(
    checkpoint: Path, exported: Path, paths: Sequence[Path], intrinsics: Path, threshold: float = 0.05
) -> Comparison:
    """Predict photos (files, folders) of one camera by torch in float32 and by ONNX Runtime, in one view.

    threshold: lowest score of a car.

    Raises UserError where the photos cannot be used, or ONNX Runtime is not installed.
    """
    photos, matrix = find_photos(paths), camera.read_intrinsics(intrinsics)
    size, settings = check_photos(photos), Predict(threshold=threshold)
    [member] = load_members([str(checkpoint)], CPU)
    # ONNX Runtime computes in float32.
    member = replace(member, train_config=replace(member.train_config, amp="off"))
    check_camera(size, matrix, member.camera, member.train_config)

    def predict(name: str, network: torch.nn.Module) -> pd.DataFrame:
        single = Member(name, [network], member.train_config, member.camera)
        return predict_members([single], photos, matrix, CPU, settings, label=name)[name]

    return compare(predict("torch", member.networks[0]), predict("onnxruntime", OnnxNetwork(exported)))


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Two tables of the same photos. Cars of one photo that are each other's nearest, within NEAREST, are one
    car."""
    pairs, count = [], len(first) + len(second)
    for image_id in sorted({*first["ImageId"]} & {*second["ImageId"]}):
        a, b = (table[table["ImageId"] == image_id] for table in (first, second))
        xyz = a[POSITION].to_numpy(float)
        apart = np.linalg.norm(xyz[:, None] - b[POSITION].to_numpy(float), axis=2)
        apart /= np.linalg.norm(xyz, axis=1)[:, None]
        mutual = (
            (apart == apart.min(axis=1, keepdims=True)) & (apart == apart.min(axis=0)) & (apart < NEAREST)
        )
        rows, columns = np.nonzero(mutual)
        turns = [
            rotation.quaternion(table[ANGLES].to_numpy(float)) for table in (a.iloc[rows], b.iloc[columns])
        ]
        scores = np.abs(a["score"].to_numpy()[rows] - b["score"].to_numpy()[columns])
        pairs.append(np.column_stack([apart[rows, columns], np.degrees(rotation.distance(*turns)), scores]))
    differences = np.concatenate([np.zeros((1, 3)), *pairs])
    alone = count - 2 * (len(differences) - 1)
    return Comparison(len(first), alone, *differences.max(axis=0).tolist())
