"""What a training learns from, and what its state belongs to."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from carpose.config.recipe import Recipe
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.train import loop

RECIPE = Recipe(input_width=192, input_height=64)


@pytest.fixture
def files(prepared, tmp_path):
    tables = {name: tmp_path / f"{name}.parquet" for name in ("images", "labels", "folds")}
    for path in tables.values():
        shutil.copy(prepared / path.name, path)
    (tmp_path / "cache").mkdir()
    for name in ("photos.npy", "cache.json"):
        shutil.copy(prepared / "cache" / name, tmp_path / "cache" / name)
    outputs = {name: tmp_path / name for name in ("output", "history", "state")}
    return loop.TrainFiles(cache=tmp_path / "cache", **tables, **outputs)


def test_a_state_belongs_to_all_that_is_learnt_from(files, tmp_path):
    def digest(fold=0, recipe=RECIPE, **changes):
        return loop.work_digest(replace(files, **changes), fold, recipe)

    first = digest()
    assert first == digest(output=tmp_path / "elsewhere")
    assert first != digest(fold=1) and first != digest(recipe=replace(RECIPE, lr=0.1))
    table = parquet.read(files.labels, {})
    cars.write(files.labels, table, ["written", "again"])
    assert digest() == first, "the same rows"
    cars.write(files.labels, table[1:])
    assert digest() != first
    cars.write(files.labels, table)
    assert digest() == first
    meta = json.loads((files.cache / "cache.json").read_text())
    (files.cache / "cache.json").write_text(json.dumps(meta | {"digest": "of other photos"}))
    assert digest() != first


def test_pseudo_labels_of_the_fold_are_learnt_from(files, tmp_path):
    plain, plain_ids, true = loop.read_files(files, 0, RECIPE)
    images, labels = pd.read_parquet(files.images), cars.read(files.labels)
    tests = images.ImageId[images.split == "test"].tolist()
    pseudo = labels.head(6).assign(ImageId=tests[0], weight=0.5, depth_sigma=0.1)
    pseudo["fold"] = [0, 0, 0, 0, 1, 1]
    cars.write(tmp_path / "pseudo.parquet", pseudo)
    both, valid_ids, both_true = loop.read_files(
        replace(files, pseudo=tmp_path / "pseudo.parquet"), 0, RECIPE
    )
    assert set(true.ImageId) <= set(valid_ids) and both_true.equals(true), "measured on labels alone"
    assert valid_ids == plain_ids and both.labelled == plain.labelled == len(plain)
    assert both.image_ids[both.labelled :] == sorted(tests)
    assert len(both.xyz) == len(plain.xyz) + 4
    assert not set(valid_ids) & set(both.image_ids)


def test_a_fold_that_is_none_is_said(files):
    with pytest.raises(UserError, match="fold 7 leaves nothing to train or to validate on"):
        loop.read_files(files, 7, RECIPE)


@pytest.mark.parametrize("file", ["labels", "pseudo"])
def test_cars_of_other_photos_are_not_learnt_from(files, tmp_path, file):
    """All photos would seem to be empty."""
    cars_of_others = cars.read(files.labels).assign(fold=0, weight=0.5, depth_sigma=0.1)
    cars_of_others["ImageId"] += "_other"
    cars.write(tmp_path / f"{file}.parquet", cars_of_others)
    with pytest.raises(UserError, match=f"{file}.parquet: none of its .* cars is on one of the"):
        loop.read_files(replace(files, **{file: tmp_path / f"{file}.parquet"}), 0, RECIPE)
