"""The picture cache: resumes, checks itself, and holds what the photos show."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from carpose import UserError, cache

CROP, SCALE = [0.0, 0.4, 1.0, 1.0], 0.5


class Killed(Exception):
    pass


class Pool:
    """Fills in this process, and is killed after `survives` photos."""

    survives, filled = None, 0

    def __init__(self, jobs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, tasks, chunksize):
        for task in tasks:
            if Pool.filled == Pool.survives:
                raise Killed
            Pool.filled += 1
            yield function(task)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(cache, "ProcessPoolExecutor", Pool)


def build(prepared, folder):
    images = pd.read_parquet(prepared / "images.parquet")
    cache.build(prepared / "data", images, folder, CROP, SCALE, jobs=1)
    return cache.open_cache(folder)


def test_holds_the_cropped_and_scaled_photos(prepared, tmp_path):
    built = build(prepared, tmp_path)
    image_id = next(iter(built.rows))
    path = next((prepared / "data").glob(f"*_images/{image_id}.jpg"))
    photo = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    height, width = built.photos.shape[1:3]
    part = photo[round(0.4 * len(photo)) :]
    expected = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    difference = np.abs(built.photos[built.rows[image_id]][..., :3].astype(int) - expected)
    assert np.median(difference) <= 3
    assert not (tmp_path / "done.npy").exists() and not (tmp_path / "plan.json").exists()


def test_interrupted_build_goes_on_where_it_stopped(prepared, tmp_path):
    whole = build(prepared, tmp_path / "whole")
    Pool.survives, Pool.filled = 5, 0
    with pytest.raises(Killed):
        build(prepared, tmp_path / "halves")
    with pytest.raises(UserError, match="not a complete picture cache"):
        cache.open_cache(tmp_path / "halves")
    Pool.survives, Pool.filled = None, 0
    again = build(prepared, tmp_path / "halves")
    assert Pool.filled == len(whole.rows) - 5
    np.testing.assert_array_equal(again.photos, whole.photos)


@pytest.mark.parametrize(
    "file, content",
    [
        *[("cache.json", text) for text in ("", "{}", "[1]", '{"image_ids": 5}')],
        *[("photos.npy", text) for text in ("", "no array")],
    ],
)
def test_what_is_no_cache_is_said_to_be_none(prepared, tmp_path, file, content):
    shutil.copytree(prepared / "cache", tmp_path / "cache")
    (tmp_path / "cache" / file).write_text(content)
    with pytest.raises(UserError, match="cache: not a complete picture cache .*; rerun the rule build_cache"):
        cache.open_cache(tmp_path / "cache")


def test_damaged_pictures_are_found(prepared, tmp_path, monkeypatch):
    fill = cache._fill
    monkeypatch.setattr(cache, "_picture", lambda task: np.zeros((2, 2, 4), np.uint8))
    task = (0, None, "some_photo", "train", False, tmp_path / "photos.partial.npy", None, None)
    np.lib.format.open_memmap(task[5], "w+", np.uint8, (1, 2, 2, 4))[:] = 0
    fill(task)
    cache._check([task])
    np.lib.format.open_memmap(task[5], "r+")[0, 0, 0, 0] = 1
    with pytest.raises(UserError, match="some_photo"):
        cache._check([task])


def test_cut_off_file_is_refused(prepared, tmp_path):
    shutil.copytree(prepared / "cache", tmp_path / "cache")
    path = tmp_path / "cache" / "photos.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="rerun the rule build_cache"):
        cache.open_cache(tmp_path / "cache")
