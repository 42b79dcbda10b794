"""Folds: near-duplicates together, images and cars spread evenly, the same for the same seed."""

import time

import numpy as np
import pandas as pd
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.data import folds
from tests.helpers import run_module


def hashes(rng, count):
    return rng.integers(0, 2**64, count, dtype=np.uint64)


def flip_bits(value, bits):
    return value ^ sum(1 << bit for bit in bits)


def test_chains_of_near_duplicates_are_one_group():
    a = 0x0123456789ABCDEF
    b = flip_bits(a, range(6))
    c = flip_bits(b, range(10, 16))  # 6 bits from b, 12 from a
    d = flip_bits(c, range(20, 27))  # 7 bits from c
    values = np.array([a, d, c, 0xFFFF0000FFFF0000, b, a], np.uint64)
    groups = folds.near_duplicates(values, 6)
    assert groups[0] == groups[4] == groups[2] == groups[5]
    assert len(set(groups)) == 3 and groups[1] != groups[0] != groups[3]
    assert len(set(folds.near_duplicates(values, 7))) == 2
    assert len(set(folds.near_duplicates(values, 0))) == 5  # equal hashes only


def test_groups_agree_with_a_loop_across_blocks(monkeypatch):
    monkeypatch.setattr(folds, "BLOCK", 7)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**10, 60).astype(np.uint64)
    groups = folds.near_duplicates(values, 1)
    expected = np.arange(60)
    for i in range(60):
        for j in range(60):
            if (int(values[i]) ^ int(values[j])).bit_count() <= 1:
                expected[expected == expected[j]] = expected[i]
    assert len(set(groups)) > 5
    assert ((groups[:, None] == groups) == (expected[:, None] == expected)).all()


def test_six_thousand_photos_take_seconds():
    start = time.perf_counter()
    groups = folds.near_duplicates(hashes(np.random.default_rng(0), 6000), 6)
    assert len(set(groups)) == 6000
    assert time.perf_counter() - start < 5  # 0.3 s on an idle machine


@pytest.mark.parametrize("count", [2, 5])
def test_images_and_cars_are_spread_evenly(count):
    rng = np.random.default_rng(1)
    groups = np.unique(rng.integers(0, 600, 1000), return_inverse=True)[1]
    car_counts = rng.integers(1, 45, 1000)
    fold = folds.split(groups, car_counts, count, seed=0)
    assert set(fold) == set(range(count))
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
    for weights in (np.ones(1000), car_counts):
        load = np.bincount(fold, weights=weights)
        assert load.max() / load.min() < 1.02


def test_the_seed_decides():
    groups, car_counts = np.arange(100), np.full(100, 10)
    assert (folds.split(groups, car_counts, 3, 7) == folds.split(groups, car_counts, 3, 7)).all()
    assert (folds.split(groups, car_counts, 3, 7) != folds.split(groups, car_counts, 3, 8)).any()


def test_too_few_different_photos():
    with pytest.raises(UserError, match=r"1 groups .* cannot fill 2 folds"):
        folds.split(np.zeros(10, int), np.ones(10), 2, 0)


def test_a_hash_that_is_none_names_its_image():
    table = pd.DataFrame({"ImageId": ["ID_a", "ID_b"], "phash": ["00ff", "zz"]})
    with pytest.raises(UserError, match="image ID_b: 'zz' is no hash"):
        folds.hashes_of(table)
    assert list(folds.hashes_of(table[:1])) == [255]


def test_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"ID_{i}" for i in range(20)]
    images = pd.DataFrame({"ImageId": names, "split": ["train"] * 16 + ["test"] * 4, "excluded": ""})
    images["phash"] = [f"{value:016x}" for value in hashes(rng, 20)]
    images.loc[1, "phash"] = images.loc[0, "phash"]
    images.loc[2, "excluded"] = "broken"
    images.to_parquet(tmp_path / "images.parquet")
    labels = pd.DataFrame(1.0, index=range(30), columns=cars.POSE)
    labels.insert(0, "ImageId", rng.choice(names[4:16], 30))  # some images have no car
    cars.write(tmp_path / "labels.parquet", labels)
    command = ["carpose.data", "folds", "--count", "3", "--output", tmp_path / "folds.parquet"]
    command += ["--images", tmp_path / "images.parquet", "--labels", tmp_path / "labels.parquet"]
    shown = run_module(*command).stdout
    assert "15 photos, 1 groups of near-duplicates, the largest with 2" in shown
    table = pd.read_parquet(tmp_path / "folds.parquet")
    assert sorted(table["ImageId"]) == sorted(set(names[:16]) - {"ID_2"})
    fold = table.set_index("ImageId")["fold"]
    assert fold["ID_0"] == fold["ID_1"] and sorted(fold.value_counts()) == [5, 5, 5]


@pytest.mark.parametrize(
    ("count", "advice"), [(0, "exclude fewer"), (1, "exclude fewer"), (3, "use fewer folds")]
)
def test_too_few_photos_for_the_folds(count, advice):
    images = [(f"ID_{i}", "train", "", f"{(1 << 16 * i) * 0xFFFF:016x}") for i in range(count)]
    images = pd.DataFrame(images, columns=["ImageId", "split", "excluded", "phash"])
    with pytest.raises(UserError, match=f"^{count} groups of .* cannot fill 4 folds; .*{advice}"):
        folds.make_folds(images, cars.empty(), 4, seed=0, distance=2)


def test_labels_of_other_photos_are_refused(prepared, tmp_path):
    labels = cars.read(prepared / "labels.parquet")
    cars.write(tmp_path / "labels.parquet", labels.assign(ImageId=labels["ImageId"] + "_other"))
    tables = ["--images", prepared / "images.parquet", "--labels", tmp_path / "labels.parquet"]
    failed = run_module("carpose.data", "folds", *tables, "--output", tmp_path / "f.parquet", check=False)
    assert failed.returncode == 2 and "labels.parquet: none of its" in failed.stderr
