"""The data of a training, and the digest that binds its state to them."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from carpose.config.train_config import TrainConfig
from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.network.checkpoint import load_checkpoint
from carpose.train import loop
from tests.predict import small

TRAIN_CONFIG = TrainConfig(input_width=192, input_height=64)


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


def test_the_digest_depends_on_all_training_data(files, tmp_path):
    def digest(fold=0, train_config=TRAIN_CONFIG, **changes):
        changed = replace(files, **changes)
        return loop.training_digest(changed, loop.read_tables(changed, fold), fold, train_config, None)

    first = digest()
    assert first == digest(output=tmp_path / "elsewhere")
    assert first != digest(fold=1) and first != digest(train_config=replace(TRAIN_CONFIG, lr=0.1))
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


@pytest.fixture
def pseudo(files, tmp_path):
    """Pseudo labels of the first test photo, four of fold 0 and two of fold 1, as `carpose.pseudo` writes."""
    images, labels = pd.read_parquet(files.images), cars.read(files.labels)
    test_id = images.ImageId[images.split == "test"].iloc[0]
    table = labels.head(6).assign(ImageId=test_id, weight=0.5, depth_sigma=0.1, fold=[0, 0, 0, 0, 1, 1])
    cars.write(tmp_path / "pseudo.parquet", table, folds=[0, 1])
    return replace(files, pseudo=tmp_path / "pseudo.parquet")


def test_the_digest_depends_on_relevant_columns_and_weights_alone(pseudo, tmp_path):
    """On the pseudo-labelled photos and the initial network; not on photo hashes, groups of near-duplicates,
    other folds' pseudo labels, or which code wrote a file."""

    def digest(start=None):
        network = None if start is None else load_checkpoint(start)[0]
        return loop.training_digest(pseudo, loop.read_tables(pseudo, 0), 0, TRAIN_CONFIG, network)

    first = digest()
    images, folds = parquet.read_images(pseudo.images), parquet.read_folds(pseudo.folds)
    parquet.write(pseudo.images, images[::-1].assign(phash="ff", digest="moved"), other="code")
    parquet.write(pseudo.folds, folds[::-1].assign(group="g"))
    table = cars.read(pseudo.pseudo)
    cars.write(pseudo.pseudo, table.assign(z=table.z.where(table.fold == 0, 99.0)), folds=[0, 1])
    assert digest() == first
    last = (images.split == "test") & (images.ImageId == images.ImageId[images.split == "test"].iloc[-1])
    parquet.write(pseudo.images, images.assign(excluded=last.map({True: "broken", False: ""})))
    assert digest() != first, "one photo without cars fewer"

    one, other = (small.checkpoint(tmp_path / f"{seed}.pt", seed=seed) for seed in (1, 2))
    again = small.checkpoint(tmp_path / "again.pt", provenance={"code": "other", "fold": 0}, seed=1)
    assert digest(one) == digest(again) != digest(other) != digest()


def test_pseudo_labels_of_the_fold_are_used_for_training(files, pseudo):
    alone, with_pseudo = loop.read_tables(files, 0), loop.read_tables(pseudo, 0)
    plain, both = (tables.samples(files.cache, TRAIN_CONFIG) for tables in (alone, with_pseudo))
    images = pd.read_parquet(files.images)
    assert set(alone.truth().ImageId) <= set(alone.valid_ids)
    assert with_pseudo.truth().equals(alone.truth()), "validation uses labels alone"
    assert with_pseudo.valid_ids == alone.valid_ids
    assert both.labelled_count == plain.labelled_count == len(plain)
    assert both.image_ids[both.labelled_count :] == sorted(images.ImageId[images.split == "test"])
    assert len(both.xyz) == len(plain.xyz) + 4
    assert not set(alone.valid_ids) & set(both.image_ids)


def test_pseudo_labels_of_other_folds_or_photos_are_refused(pseudo):
    """Without pseudo labels of this fold, all test photos would count as empty."""
    table = cars.read(pseudo.pseudo)
    cars.write(pseudo.pseudo, table.assign(fold=1), folds=[1, 2])
    with pytest.raises(UserError, match="pseudo.parquet: has labels for the folds 1, 2, none for fold 0;"):
        loop.read_tables(pseudo, 0)
    cars.write(pseudo.pseudo, table.assign(ImageId="ID_elsewhere"), folds=[0, 1])
    with pytest.raises(
        UserError, match="pseudo.parquet: image ID_elsewhere is not among the test photos of .*images"
    ):
        loop.read_tables(pseudo, 0)
    cars.write(pseudo.pseudo, table[:0], folds=[0, 1])
    assert len(loop.read_tables(pseudo, 0).pseudo_ids) == 4, "no car was a pseudo label"


def test_a_fold_without_photos_is_an_error(files):
    with pytest.raises(UserError, match="fold 7 leaves no photos to train or to validate on"):
        loop.read_tables(files, 7)


@pytest.mark.parametrize("file", ["labels", "pseudo"])
def test_cars_of_other_photos_are_refused(files, tmp_path, file):
    """Otherwise all photos would count as empty."""
    cars_of_others = cars.read(files.labels).assign(fold=0, weight=0.5, depth_sigma=0.1)
    cars_of_others["ImageId"] += "_other"
    cars.write(tmp_path / f"{file}.parquet", cars_of_others)
    with pytest.raises(
        UserError, match=f"{file}.parquet: (none of its .* cars is on one|image .*_other is not)"
    ):
        loop.read_tables(replace(files, **{file: tmp_path / f"{file}.parquet"}), 0)
