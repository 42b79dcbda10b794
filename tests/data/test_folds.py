"""Folds: near-duplicates share a fold, images and cars are spread evenly, the seed decides."""

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


def grouped(rng, images=1000):
    """Names of groups of one to a few images, and numbers of cars."""
    return np.array([f"ID_{i}" for i in rng.integers(0, 0.6 * images, images)]), rng.integers(1, 45, images)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_images_and_cars_are_spread_evenly(count, seed):
    groups, car_counts = grouped(np.random.default_rng(seed))
    fold = folds.split(groups, car_counts, count, seed)
    assert set(fold) == set(range(count))
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
    for amount, limit in ((np.ones(1000), 1.03), (car_counts, 1.1)):
        load = np.bincount(fold, weights=amount)
        assert load.max() / load.min() < limit


def test_the_seed_decides_and_the_order_does_not():
    rng = np.random.default_rng(0)
    groups, car_counts = grouped(rng, 100)
    fold = folds.split(groups, car_counts, 3, 7)
    assert (fold != folds.split(groups, car_counts, 3, 8)).any()
    order = rng.permutation(100)
    assert (folds.split(groups[order], car_counts[order], 3, 7) == fold[order]).all()


@pytest.mark.parametrize("images", [60, 800])
def test_an_image_more_or_less_moves_few_others(images):
    rng = np.random.default_rng(2)
    groups, car_counts = grouped(rng, images)
    fold = folds.split(groups, car_counts, 5, 0)
    moved = []
    for row in rng.choice(images, 20, replace=False):
        others = np.arange(images) != row
        moved.append((folds.split(groups[others], car_counts[others], 5, 0) != fold[others]).sum())
    assert np.mean(moved) < 6 and max(moved) < 25


def test_no_fold_is_empty():
    """For groups of any size, and for as many groups as folds."""
    for sizes in ([1, 1, 1, 1, 96], [1, 30, 1, 1, 67], [20] * 5, [50, 1, 1, 1, 1, 1, 45]):
        groups = np.repeat([f"ID_{i}" for i in range(len(sizes))], sizes)
        for seed in range(20):
            assert set(folds.split(groups, np.ones(100), 5, seed)) == set(range(5))


def test_too_few_different_photos():
    with pytest.raises(UserError, match=r"1 groups .* cannot fill 2 folds"):
        folds.split(np.full(10, "ID_a"), np.ones(10), 2, 0)


def chain(splits, excluded) -> pd.DataFrame:
    """images.parquet of ID_0, ID_1 …, each 4 bits from the one before, and of 40 unrelated photos."""
    rows = [(f"ID_{i}", split, why) for i, (split, why) in enumerate(zip(splits, excluded, strict=True))]
    table = pd.DataFrame(rows, columns=["ImageId", "split", "excluded"])
    table["phash"] = [f"{2 ** (4 * i) - 1:016x}" for i in range(len(rows))]
    others = {"ImageId": [f"ID_other{i}" for i in range(40)], "split": "train", "excluded": ""}
    others["phash"] = [f"{value:016x}" for value in hashes(np.random.default_rng(0), 40)]
    return pd.concat([table, pd.DataFrame(others)], ignore_index=True)


@pytest.mark.parametrize("split, why", [("test", ""), ("train", "broken"), ("test", "broken")])
def test_a_photo_outside_training_links_two_training_photos(split, why):
    images = chain([split, "train", split, "train"], [why, "", why, ""])
    for seed in range(10):
        table = folds.make_folds(images, cars.empty(), 3, seed, distance=4).set_index("ImageId")
        assert table["fold"]["ID_1"] == table["fold"]["ID_3"]
        assert list(table["group"][["ID_1", "ID_3", "ID_other0"]]) == ["ID_0", "ID_0", "ID_other0"]
        assert "ID_0" not in table.index and "ID_2" not in table.index


def test_neither_row_order_nor_an_excluded_photo_changes_the_folds():
    images = chain(["train"] * 4, [""] * 4)
    labels = pd.DataFrame({"ImageId": np.random.default_rng(1).choice(images["ImageId"], 300)})
    table = folds.make_folds(images, labels, 2, 0, distance=4)
    pd.testing.assert_frame_equal(
        folds.make_folds(images.sample(frac=1, random_state=0), labels, 2, 0, distance=4), table
    )
    fold = table.set_index("ImageId")["fold"]
    without = images.assign(excluded=np.where(images["ImageId"] == "ID_0", "broken", ""))
    left = folds.make_folds(without, labels, 2, 0, distance=4).set_index("ImageId")["fold"]
    assert (left != fold[left.index]).sum() <= 3
    assert (left[["ID_1", "ID_2", "ID_3"]] == fold["ID_0"]).all()


def test_an_excluded_photo_needs_no_hash():
    images = chain(["train"] * 2, ["", "missing"])
    images.loc[1, "phash"] = ""
    assert len(folds.make_folds(images, cars.empty(), 2, 0, distance=4)) == 41
    with pytest.raises(UserError, match="image ID_1: invalid hash ''"):
        folds.make_folds(images.assign(excluded=""), cars.empty(), 2, 0, distance=4)


def test_an_invalid_hash_names_its_image():
    table = pd.DataFrame({"ImageId": ["ID_a", "ID_b"], "phash": ["00ff", "zz"]})
    with pytest.raises(UserError, match="image ID_b: invalid hash 'zz'"):
        folds.parse_hashes(table)
    assert list(folds.parse_hashes(table[:1])) == [255]


def test_the_command_line(tmp_path):
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
    assert "15 photos, 1 groups of near-duplicates (largest: 2)" in shown
    table = pd.read_parquet(tmp_path / "folds.parquet")
    assert sorted(table["ImageId"]) == sorted(set(names[:16]) - {"ID_2"})
    fold = table.set_index("ImageId")["fold"]
    assert fold["ID_0"] == fold["ID_1"] and sorted(fold.value_counts()) == [5, 5, 5]
    assert table.loc[table["ImageId"].isin(["ID_0", "ID_1"]), "group"].tolist() == ["ID_0", "ID_0"]


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
