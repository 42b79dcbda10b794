"""The image cache: resumes, verifies itself, depends on its photos, and contains what they show."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from carpose.core.errors import UserError
from carpose.data import cache
from tests.helpers import SameProcess

CROP, SCALE = [0.0, 0.4, 1.0, 1.0], 0.5


class Killed(Exception):
    pass


class Pool(SameProcess):
    """A pool in this process that is killed after `survives` photos and calls `after` with each task."""

    survives, filled, after = None, 0, None

    def map(self, function, tasks, chunksize):
        for task in tasks:
            if Pool.filled == Pool.survives:
                raise Killed
            Pool.filled += 1
            row = function(task)
            if Pool.after:
                Pool.after(task)
            yield row


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(cache, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "survives", None)
    monkeypatch.setattr(Pool, "filled", 0)
    monkeypatch.setattr(Pool, "after", None)


def build(prepared, folder, images=None):
    images = pd.read_parquet(prepared / "images.parquet") if images is None else images
    cache.build(prepared / "data", images, folder, CROP, SCALE, jobs=1)
    return cache.open_cache(folder)


def interrupt(prepared, folder, after=5):
    Pool.survives = after
    with pytest.raises(Killed):
        build(prepared, folder)
    Pool.survives, Pool.filled = None, 0


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.json", "photos.npy"]


def test_a_photo_s_exif_orientation_is_ignored(prepared, tmp_path):
    """And that of its mask: labels refer to the pixels as stored."""
    shutil.copytree(prepared / "data", tmp_path / "data")
    images = pd.read_parquet(prepared / "images.parquet")
    image_id = images.loc[images.has_mask, "ImageId"].iloc[0]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # upside down
    for path in (tmp_path / "data").glob(f"*/{image_id}.jpg"):
        Image.open(path).save(path, exif=exif, quality=95, subsampling=0)
    caches = build(tmp_path, tmp_path / "turned", images), build(prepared, tmp_path / "upright", images)
    turned, upright = (cache.photos[cache.rows[image_id]].astype(int) for cache in caches)
    assert np.abs(turned - upright).mean() < 3 < np.abs(turned[::-1, ::-1] - upright).mean()
    assert np.abs(turned - upright)[..., 3].mean() < 3 < np.ptp(upright[..., 3])


def test_interrupted_build_resumes_where_it_stopped(prepared, tmp_path):
    complete = build(prepared, tmp_path / "complete")
    Pool.filled = 0
    interrupt(prepared, tmp_path / "halves")
    with pytest.raises(UserError, match="not a complete image cache"):
        cache.open_cache(tmp_path / "halves")
    again = build(prepared, tmp_path / "halves")
    assert Pool.filled == len(complete.rows) - 5
    np.testing.assert_array_equal(again.photos, complete.photos)


def test_changed_photos_make_another_cache(prepared, tmp_path):
    """A partial cache of the old photos is not resumed, and the digest differs."""
    complete = build(prepared, tmp_path / "complete")
    Pool.filled = 0
    interrupt(prepared, tmp_path / "halves")
    shutil.copytree(prepared / "data", tmp_path / "data")
    first = next(iter(complete.rows))
    path = next((tmp_path / "data").glob(f"*_images/{first}.jpg"))
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    images = pd.read_parquet(prepared / "images.parquet")
    images.loc[images.ImageId == first, "digest"] = "another"
    changed = build(tmp_path, tmp_path / "halves", images)
    assert Pool.filled == len(complete.rows)
    assert (changed.photos[0] != complete.photos[0]).any() and (changed.photos[1] == complete.photos[1]).all()
    metas = [json.loads((tmp_path / name / "cache.json").read_text()) for name in ("complete", "halves")]
    assert metas[0]["digest"] != metas[1]["digest"]


def test_a_table_without_digests_is_refused(prepared, tmp_path):
    images = pd.read_parquet(prepared / "images.parquet").drop(columns="digest")
    with pytest.raises(UserError, match="no digests; rerun the rule check_data"):
        build(prepared, tmp_path, images)


@pytest.mark.parametrize(
    "file, content",
    [
        *[("cache.json", text) for text in ("", "{}", "[1]", '{"image_ids": 5}')],
        *[("photos.npy", text) for text in ("", "no array")],
    ],
)
def test_an_invalid_cache_is_refused(prepared, tmp_path, file, content):
    shutil.copytree(prepared / "cache", tmp_path / "cache")
    (tmp_path / "cache" / file).write_text(content)
    with pytest.raises(UserError, match="cache: not a complete image cache .*; rerun the rule build_cache"):
        cache.open_cache(tmp_path / "cache")


def test_a_disk_that_damages_images_is_detected(prepared, tmp_path):
    def damage(task):
        np.lib.format.open_memmap(task.output, "r+")[task.row, 0, 0, 0] ^= 1

    Pool.after = damage
    first = pd.read_parquet(prepared / "images.parquet").sort_values(["split", "ImageId"]).ImageId.iloc[0]
    with pytest.raises(UserError, match=f"image {first} is not what was written"):
        build(prepared, tmp_path)
    assert not (tmp_path / "cache.json").exists()


def test_a_truncated_file_is_refused(prepared, tmp_path):
    shutil.copytree(prepared / "cache", tmp_path / "cache")
    path = tmp_path / "cache" / "photos.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="rerun the rule build_cache"):
        cache.open_cache(tmp_path / "cache")
