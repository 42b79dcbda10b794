"""Batches: the same for any number of workers, and wherever a training resumes."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.data import loader
from carpose.data.samples import Photos, Samples

CPU = torch.device("cpu")
SMALL = TrainConfig(input_width=192, input_height=64, batch_size=2, mask_channel=True)


@pytest.fixture(scope="module")
def samples(prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    return Samples(prepared / "cache", sorted(labels.ImageId.unique()), labels, SMALL)


def test_epoch_order_has_the_share_of_pseudo_labelled_photos():
    order = loader.epoch_order(0, labelled=100, pseudo_labelled=30, pseudo_share=0.4, seed=1)
    assert len(order) == 100 and (order >= 100).sum() == 40
    assert len(np.unique(order[order < 100])) == 60
    assert set(order[order >= 100]) == set(range(100, 130)), "every pseudo-labelled photo is used"
    assert (loader.epoch_order(0, 100, 30, 0.4, 1) == order).all()
    assert (loader.epoch_order(1, 100, 30, 0.4, 1) != order).any()


def test_a_resumed_epoch_has_the_remaining_batches():
    order = loader.epoch_order(2, 20, 0, 0, 0)
    assert list(loader.batches(2, order, 3, 4)) == list(loader.batches(2, order, 3, 0))[4:]


def test_neither_workers_nor_resuming_change_the_batches(samples):
    per_epoch = len(samples) // 2

    def streamed(epoch, batch, workers):
        before = torch.get_rng_state()
        yield from loader.stream(samples, range(epoch, 3), batch, CPU, workers=workers)
        assert torch.equal(before, torch.get_rng_state())

    expected_batches = list(streamed(0, 0, 0))
    assert len(expected_batches) == 3 * per_epoch
    for epoch, batch, workers in ((0, 0, 2), (1, 1, 1)):
        others = list(streamed(epoch, batch, workers))
        for expected, other in zip(expected_batches[epoch * per_epoch + batch :], others, strict=True):
            same_batch(expected, other)
            assert other[0].shape[-1] == 4


def same_batch(batch, other):
    (images, targets, image_ids), (other_images, other_targets, other_ids) = batch, other
    assert image_ids == other_ids and torch.equal(images, other_images)
    assert list(targets) == list(other_targets)
    for name, value in targets.items():
        np.testing.assert_array_equal(value, other_targets[name], err_msg=name)


def test_processes_share_each_batch(samples):
    expected_batches = list(loader.stream(samples, range(1), 0, CPU))
    parts = [
        list(loader.stream(samples, range(1), 0, CPU, shard=lambda batch, rank=rank: batch[rank::2]))
        for rank in range(2)
    ]
    for (images, _, image_ids), *shards in zip(expected_batches, *parts, strict=True):
        assert image_ids == [part[2][0] for part in shards]
        assert torch.equal(images, torch.cat([part[0] for part in shards]))


def test_batches_of_one_shape(samples):
    batches = list(loader.stream(samples, range(2), 0, CPU, fixed_shape=True))
    shapes = {tuple((name, value.shape) for name, value in targets.items()) for _, targets, _ in batches}
    assert len(shapes) == 1
    for (_, targets, _), (_, plain, _) in zip(batches, loader.stream(samples, range(2), 0, CPU), strict=True):
        count = len(plain["cell"])
        np.testing.assert_array_equal(targets["cell"][:count], plain["cell"])
        assert not targets["weight"][count:].any()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_photo_batches_keep_the_order(prepared, samples, workers):
    photos = Photos(prepared / "cache", samples.image_ids, SMALL)
    batches = list(loader.photo_batches(photos, 5, workers))
    assert [name for _, names in batches for name in names] == samples.image_ids
    assert [len(images) for images, _ in batches[:-1]] == [5] * (len(photos) // 5)
    images = torch.cat([images for images, _ in batches])
    assert np.array_equal(images, np.stack([photos[index] for index in range(len(photos))]))


def test_too_little_shared_memory_for_workers_is_an_error(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    loader.check_shared_memory(free // 16, 4, str(tmp_path))
    loader.check_shared_memory(free, 0, str(tmp_path))
    with pytest.raises(UserError, match="workers: 4 of them need .* MB free; use fewer workers, or"):
        loader.check_shared_memory(free // 11, 4, str(tmp_path))


def test_a_container_s_shared_memory_is_checked_for_every_stream(prepared, samples, monkeypatch):
    """64 MB, as docker gives."""
    large = TrainConfig(input_width=1536, input_height=512, batch_size=8)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=64 << 20))
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    too_large = Samples(prepared / "cache", samples.image_ids, labels, large)
    with pytest.raises(UserError, match="workers: 1 of them need 29. MB"):
        loader.stream(too_large, range(1), 0, CPU, workers=1)
    with pytest.raises(UserError, match="workers: 1 of them need 7. MB"):
        next(loader.photo_batches(too_large, 8, workers=1))
    assert len(list(loader.stream(samples, range(1), 0, CPU, workers=1))) == len(samples) // 2
