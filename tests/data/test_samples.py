"""Samples: a photo and its cars → image and targets."""

import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from carpose.config.load import laid_over, train_configs, with_models
from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.data import cache
from carpose.data.samples import MEAN, STD, Photos, Samples, network_input, normalised
from carpose.geometry import camera
from carpose.heads.head import STRIDE
from tests.helpers import ENVIRONMENT, REPOSITORY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def labels(prepared):
    return pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)


def samples(prepared, labels, pseudo=0, **changes):
    train_config = TrainConfig(**{"input_width": 192, "input_height": 64, **changes})
    return Samples(prepared / "cache", sorted(labels.ImageId.unique()), labels, train_config, pseudo)


@pytest.mark.parametrize("mask_channel", [False, True])
def test_the_network_input_is_the_same_normalised_before_or_after(prepared, labels, mask_channel):
    all_samples = samples(prepared, labels, mask_channel=mask_channel)
    images, _, _ = all_samples.collate([all_samples[0, position, position] for position in range(2)])
    train_config = all_samples.train_config
    inputs = network_input(images, CPU, train_config)
    assert torch.equal(inputs, network_input(normalised(images, train_config), CPU, train_config))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    plain = (images[..., :3] / 255.0 - MEAN) / STD
    torch.testing.assert_close(inputs[:, :3].permute(0, 2, 3, 1), plain, atol=1e-5, rtol=1e-5)
    if mask_channel:
        torch.testing.assert_close(inputs[:, 3], images[..., 3] / 255.0)


def test_pseudo_labelled_photos_are_augmented_more_strongly(prepared, labels):
    last = labels.ImageId.nunique() - 1

    def images(scale):
        scaled = samples(prepared, labels, pseudo=1, pseudo_augment_scale=scale)
        return [scaled[0, 0, index].image for index in (0, last)]

    (labelled, pseudo), (labelled_too, stronger) = images(1.0), images(2.0)
    assert (labelled == labelled_too).all() and (pseudo != stronger).any()


def test_without_augmentation_a_sample_is_the_photo(prepared, labels):
    still = {"flip": 0.0, "rotate_deg": [0.0, 0.0, 0.0], "zoom": 0.0, "shift": 0.0, "colour": 0.0}
    all_samples = samples(prepared, labels, **still)
    photos = Photos(prepared / "cache", all_samples.image_ids, all_samples.train_config)
    for index in range(3):
        assert np.array_equal(all_samples[0, index, index].image, photos[index])


def test_a_photo_is_augmented_anew_in_every_epoch(prepared, labels):
    dataset = samples(prepared, labels)
    first, again, later, elsewhere = (dataset[key] for key in ((0, 1, 2), (0, 1, 2), (1, 1, 2), (0, 3, 2)))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.xyz, again.xyz)
    for other in (later, elsewhere):  # the same photo may be twice in an epoch
        assert not np.array_equal(other.image, first.image)
        assert not np.array_equal(other.intrinsics, first.intrinsics)


def test_targets_move_with_the_image(prepared, labels):
    """Zoom and shift are part of a sample's intrinsics."""
    still = {"flip": 0.0, "rotate_deg": [0.0, 0.0, 0.0], "colour": 0.0}
    plain = samples(prepared, labels, **still, zoom=0.0, shift=0.0)
    moved = samples(prepared, labels, **still, zoom=0.2, shift=0.1)
    cells, ones = camera.cells(STRIDE), np.ones((64, 192), np.uint8)
    for index in range(4):
        one, other = plain[0, 0, index], moved[0, 0, index]
        homography = np.linalg.inv(cells) @ other.intrinsics @ np.linalg.inv(one.intrinsics) @ cells
        image = cv2.warpPerspective(one.image, homography, (192, 64)).astype(float)
        shown = cv2.erode(cv2.warpPerspective(ones, homography, (192, 64)), np.ones((5, 5))) > 0
        error = np.abs(image - other.image)[shown].mean()
        assert (
            shown.mean() > 0.5 and error < 0.5 * np.abs(one.image.astype(float) - other.image)[shown].mean()
        )


def test_masked_cells_are_left_out_but_for_centres(prepared, labels):
    all_samples = samples(prepared, labels, batch_size=2)
    batch = [all_samples[0, position, position] for position in range(len(all_samples))]
    images, targets, _ = all_samples.collate(batch)
    masked = images[:, 2::4, 2::4, 3].numpy() > 127
    masked.reshape(-1)[targets["peak"]] = False
    assert masked.any() and targets["ignore"].numpy()[masked].all()
    assert not targets["ignore"].numpy().reshape(-1)[targets["peak"]].any()


def test_all_batches_have_labels_noise_or_none(prepared, labels):
    """A CUDA graph needs targets of fixed names and shapes."""
    first = labels.ImageId.min()
    for noisy in (False, True):
        table = labels.assign(depth_sigma=np.where(labels.ImageId == first, 0.1 * noisy, 0.0))
        all_samples = samples(prepared, table)
        for index in range(2):
            _, targets, _ = all_samples.collate([all_samples[0, 0, index]])
            assert ("depth_noise" in targets) == noisy


def test_a_cache_is_built_in_a_process_that_uses_opencv_s_threads(prepared, tmp_path):
    code = f"""
import cv2, numpy as np, pandas as pd
from pathlib import Path
from carpose.data import cache
cv2.setNumThreads(4)
cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500))  # starts them
prepared = Path({str(prepared)!r})
images = pd.read_parquet(prepared / "images.parquet").head(3)
cache.build(prepared / "data", images, Path({str(tmp_path)!r}), [0, 0.5, 1, 1], 0.3, jobs=2)
"""
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, timeout=120)
    assert (tmp_path / "photos.npy").exists()


def test_a_photo_that_is_not_cached_is_named(prepared):
    with pytest.raises(UserError, match="image ID_nowhere is not in the cache; rerun build_cache"):
        Photos(prepared / "cache", ["ID_nowhere"], TrainConfig())


def test_cache_and_folds_need_no_torch():
    code = "import sys, carpose.data.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


def cropped(prepared, folder, crop):
    images = pd.read_parquet(prepared / "images.parquet").head(2)
    cache.build(prepared / "data", images, folder, crop, 0.3, jobs=1)
    return images["ImageId"].tolist()


@pytest.mark.parametrize(
    "crop, changes, shown",
    [
        ([0.0, 0.6, 1.0, 1.0], {}, "[0, 0.5, 1, 1]"),
        ([0.0, 0.4, 0.9, 1.0], {}, "[0, 0.5, 1, 1]"),
        ([0.2, 0.4, 1.0, 1.0], {"crop": [0.2, 0.5, 1, 1], "perspective": 1.0}, "[0, 0.5, 1, 1]"),
        ([0.0, 0.4, 1.0, 1.0], {"crop": [-0.5, 0.5, 1.5, 1.2], "perspective": 1.0}, ""),
        ([-0.1, 0.4, 1.2, 1.1], {}, ""),
        ([0.1, 0.5, 0.9, 0.9], {"crop": [0.3, 0.5, 0.7, 0.9], "perspective": 0.8}, ""),
    ],
)
def test_a_cache_must_contain_what_the_input_shows_of_the_photos(prepared, tmp_path, crop, changes, shown):
    """A part missing in the cache would be black in the input; beyond the photo it is black anyway."""
    image_ids = cropped(prepared, tmp_path / "cache", crop)
    train_config = TrainConfig(**{"input_width": 192, "input_height": 64, **changes})
    if not shown:
        assert Photos(tmp_path / "cache", image_ids, train_config)[0].shape == (64, 192, 4)
        return
    with pytest.raises(UserError) as error:
        Photos(tmp_path / "cache", image_ids, train_config)
    written = "[" + ", ".join(f"{edge:g}" for edge in crop) + "]"
    text = f"{tmp_path}/cache: contains {written} of the photos, but the network's input shows {shown}; build"
    assert str(error.value).startswith(text)


@pytest.mark.parametrize("overlay", ["config", "configs/ci", "configs/pku"])
def test_caches_of_shipped_configurations_suit_their_models(prepared, tmp_path, overlay):
    files = [REPOSITORY / "config.yaml", REPOSITORY / f"{overlay}.yaml"]
    config = {}
    for file in files:
        config = laid_over(config, yaml.safe_load(file.read_text()))
    config = with_models(config, files, {})
    image_ids = cropped(prepared, tmp_path / "cache", config["cache"]["crop"])
    for model in config["models"]:
        for train_config in train_configs(config, model):
            assert Photos(tmp_path / "cache", image_ids, train_config)[0].any()
