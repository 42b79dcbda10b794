"""What a training learns from: its files, and the samples that they give."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carpose.config.recipe import Recipe
from carpose.core import cars, parquet
from carpose.core.cars import POSE
from carpose.core.errors import UserError
from carpose.data.samples import Samples


@dataclass(frozen=True)
class TrainFiles:
    """Every file that a training reads or writes."""

    cache: Path  # folder
    images: Path
    labels: Path
    folds: Path
    output: Path  # model.pt
    history: Path
    state: Path
    pseudo: Path | None = None  # pseudo labels of the round before
    start_weights: Path | None = None  # model.pt that it begins with
    events: Path | None = None  # folder for TensorBoard


@dataclass(frozen=True)
class Material:
    """The samples of a training, and the photos that it is measured on."""

    samples: Samples
    labelled: int  # photos with labels, the length of an epoch
    valid_ids: list[str]


def load(files: TrainFiles, fold: int, recipe: Recipe) -> Material:
    """Raises UserError where a file is not right or the fold leaves nothing to learn from."""
    labels = cars.read(files.labels)
    folds = parquet.read_folds(files.folds).sort_values("ImageId")
    train_ids = folds.ImageId[folds.fold != fold].tolist()
    valid_ids = folds.ImageId[folds.fold == fold].tolist()
    if not train_ids or not valid_ids:
        raise UserError(f"{files.folds}: fold {fold} leaves nothing to train or to validate on")
    table, pseudo_ids = labels.assign(weight=1.0, depth_sigma=0.0), []
    if files.pseudo is not None:
        images = parquet.read_images(files.images)
        needed = dict.fromkeys(["fold", "weight", "depth_sigma"], parquet.NUMBER)
        pseudo = cars.read(files.pseudo, columns=needed)
        pseudo = pseudo[pseudo.fold == fold]
        pseudo_ids = sorted(images.ImageId[(images.split == "test") & (images.excluded == "")])
        columns = ["ImageId", *POSE, "weight", "depth_sigma"]
        table = pd.concat([table[columns], pseudo[columns]], ignore_index=True)
    samples = Samples(files.cache, train_ids + pseudo_ids, table, recipe, len(pseudo_ids))
    return Material(samples, len(train_ids), valid_ids)


def work_digest(files: TrainFiles, fold: int, recipe: Recipe) -> str:
    """What a state belongs to: the recipe, the fold, and the content of every file that is learnt from."""
    hasher = hashlib.sha256(f"{recipe.digest()} {fold}".encode())
    for table in (files.labels, files.folds, files.pseudo):
        if table is not None:
            hasher.update(parquet.content_digest(table).encode())
    for path in (files.start_weights, files.cache / "cache.json"):
        if path is not None:
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]
