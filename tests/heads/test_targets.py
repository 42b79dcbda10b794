"""Cars → targets: against the slow reference, in batches, padded."""

import numpy as np
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera, rotation
from carpose.heads.depth import PARAMETRISATIONS
from carpose.heads.head import make_heads
from carpose.heads.targets import pad_targets
from tests import reference
from tests.heads.made_up import FOCAL, INTRINSICS, SIZE, batch_of_four, encoded, scene

AREA = SIZE[0] * SIZE[1]
BOTH = TrainConfig(heads=["height"])


@pytest.mark.parametrize("train_config", [TrainConfig(), BOTH], ids=["fixed", "height"])
def test_targets_of_a_batch_are_those_of_its_photos(train_config):
    together, alone = batch_of_four(train_config)
    for name, value in together.items():
        parts = [targets[name] for targets in alone]
        if name in ("peak", "cell"):
            parts = [cells + number * AREA for number, cells in enumerate(parts)]
        np.testing.assert_array_equal(value, np.concatenate(parts), err_msg=name)


@pytest.mark.parametrize("crowded", [False, True])
def test_targets_agree_with_the_literal_loop(crowded):
    """Equal cell by cell, but the heat map is 0 beyond 3σ."""
    train_config = TrainConfig()
    xyz, turn = scene(40)
    if crowded:
        xyz, turn = np.concatenate([xyz, xyz * [1.02, 1, 1]]), np.concatenate([turn, turn[::-1]])
    targets = encoded(xyz, turn, train_config)
    heatmap, cells = reference.targets(xyz, turn, INTRINSICS, SIZE, FOCAL, train_config)
    near = heatmap > np.exp(-4.5)
    np.testing.assert_allclose(targets["heatmap"][0][near], heatmap[near], rtol=1e-6)
    assert (targets["heatmap"][0] <= heatmap + 1e-6).all()
    assert targets["cell"].tolist() == sorted(y * SIZE[0] + x for y, x in cells)
    rows = [cells[divmod(cell, SIZE[0])] for cell in targets["cell"].tolist()]
    for name, column in (("weight", 1), ("offset", 2), ("depth", 3), ("rotation", 4)):
        expected = np.array([row[column] for row in rows])
        value = targets[name]
        np.testing.assert_allclose(value.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_a_zoomed_image_has_another_depth_target():
    """Depth is learnt relative to the focal length."""
    xyz, turn = scene(1)
    zoom = np.diag([1.3, 1.3, 1.0])
    plain = encoded(xyz, turn, TrainConfig(), size=(256, 80))
    zoomed = encoded(xyz, turn, TrainConfig(), size=(256, 80), intrinsics=zoom @ INTRINSICS)
    np.testing.assert_allclose(np.exp(plain["depth"] - zoomed["depth"]), 1.3, rtol=1e-5)


def test_heatmap_is_a_maximum_with_peaks_of_one():
    xyz, turn = scene(30)
    xyz = np.concatenate([xyz, xyz + [0.3, 0, 0]])  # overlapping peaks
    targets = encoded(xyz, np.concatenate([turn, turn]), TrainConfig())
    assert targets["heatmap"].max() == 1.0
    np.testing.assert_array_equal(targets["heatmap"].reshape(-1)[targets["peak"]], 1.0)


def test_cars_outside_the_image_or_behind_the_camera_have_no_target():
    xyz = np.array([[500.0, 5, 20], [0, 5, -10], [0, 5, 25]])
    assert len(encoded(xyz, np.stack([np.eye(3)] * 3), TrainConfig())["peak"]) == 1


def test_no_car_gives_empty_targets():
    targets = encoded(np.empty((0, 3)), np.empty((0, 3, 3)), BOTH)
    assert len(targets["cell"]) == 0 and targets["heatmap"].max() == 0
    assert targets["rotation"].shape == (0, 6) and targets["height"].shape == (0, 1)


def test_a_car_of_weight_zero_is_neither_positive_nor_negative():
    xyz, turn = scene(1)
    targets = encoded(xyz, turn, TrainConfig(), weight=np.zeros(1))
    assert targets["ignore"].sum() >= 5 and len(targets["peak"]) == 0 and len(targets["cell"]) == 0
    assert targets["heatmap"].max() == 0


def test_two_cars_in_one_cell_keep_one():
    xyz, turn = scene(1)
    targets = encoded(np.concatenate([xyz, xyz * 1.0001]), np.concatenate([turn, turn]), TrainConfig())
    assert len(targets["peak"]) == 1 and len(np.unique(targets["cell"])) == len(targets["cell"])


@pytest.mark.parametrize("depth", list(PARAMETRISATIONS))
def test_noise_of_a_label_is_in_the_units_of_its_target(depth):
    """Moving a car by its label's error changes the target by the noise (as a standard deviation)."""
    train_config = TrainConfig(depth=depth)
    xyz, turn = np.array([[1.0, 1.5, 20.0]]), np.eye(3)[None]
    near, far = (
        encoded(xyz * factor, turn, train_config, noise=np.array([0.02])) for factor in (1, np.exp(0.002))
    )
    assert near["depth_noise"][0, 0] * np.sqrt(2) / 0.02 == pytest.approx(
        abs(float(far["depth"][0, 0]) - float(near["depth"][0, 0])) / 0.002, rel=0.01
    )


def test_labels_have_noise_where_the_training_has_any():
    xyz, turn = scene(3)
    without, none_of_it = encoded(xyz, turn, BOTH), encoded(xyz, turn, BOTH, noise=np.zeros(3))
    assert set(none_of_it) - set(without) == {"depth_noise", "height_noise"}
    assert not none_of_it["height_noise"].any()


@pytest.mark.parametrize("train_config", [BOTH, TrainConfig(position="regressed")], ids=["ray", "regressed"])
def test_each_head_maps_what_it_says_of_a_mirror_image_back(train_config):
    """`mirrored` maps the targets of the mirrored scene to those of the scene itself."""
    xyz, turn = scene()
    flip = np.array([[-1, 0, SIZE[0] - 1], [0, 1, 0], [0, 0, 1]]) @ INTRINSICS @ rotation.MIRROR
    mirrored = rotation.MIRROR @ turn @ rotation.MIRROR
    targets = encoded(xyz, turn, train_config)
    other = encoded(xyz @ rotation.MIRROR, mirrored, train_config, intrinsics=flip)
    rows, columns = np.divmod(other["cell"], SIZE[0])
    cells = rows * SIZE[0] + SIZE[0] - 1 - columns
    assert sorted(cells) == targets["cell"].tolist()
    for name, head in make_heads(train_config).items():
        if name != "heatmap":
            back = head.mirrored(torch.from_numpy(other[name])).numpy()[np.argsort(cells)]
            np.testing.assert_allclose(back, targets[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_padded_targets_have_one_shape_and_no_more_weight():
    targets = batch_of_four(BOTH)[0]
    arrays = {name: torch.from_numpy(value) if value.ndim > 2 else value for name, value in targets.items()}
    padded = pad_targets(arrays, max_objects=50)
    for name, value in padded.items():
        assert name in ("heatmap", "ignore") or len(value) == (50 if name.startswith("peak") else 450), name
        np.testing.assert_array_equal(value[: len(arrays[name])], arrays[name], err_msg=name)
    for cells, weight in (("peak", "peak_weight"), ("cell", "weight")):
        assert not padded[weight][len(arrays[weight]) :].any()
        assert padded[cells].min() >= 0 and padded[cells].max() < 4 * AREA


def test_a_centre_belongs_to_the_map_up_to_half_a_cell_beyond_the_last_cells_centre():
    """Cells are numbered by their centres, so the map reaches from −½ to width − ½ and height − ½."""
    edges = [(-0.5, 0), (SIZE[0] - 0.5, 0), (-0.5, 1), (SIZE[1] - 0.5, 1)]
    for edge, axis in edges:
        for step in (-0.02, 0.02):
            uv = np.array([60.0, 20.0])
            uv[axis] = edge + step
            xyz = camera.backproject(INTRINSICS, uv[None], np.array([30.0]))
            targets = encoded(xyz, np.eye(3)[None], TrainConfig())
            inside = (step > 0) == (edge < 0)
            assert len(targets["peak"]) == inside and targets["heatmap"].max() == inside, (uv, inside)


def test_targets_of_a_car_have_its_sample_weight():
    xyz, turn = scene(6)
    weight = np.array([1.0, 0.5, 0.9, 0.1, 0.3, 0.7])
    plain, weighted = (encoded(xyz, turn, TrainConfig(), weight=w) for w in (np.ones(6), weight))
    np.testing.assert_allclose(weighted["peak_weight"][np.argsort(weighted["peak"] % SIZE[0])], weight)
    assert weighted["cell"].tolist() == plain["cell"].tolist()
    columns = weighted["cell"] % SIZE[0]
    nearest = np.abs(columns[:, None] - camera.project(INTRINSICS, xyz)[:, 0]).argmin(axis=1)
    np.testing.assert_allclose(weighted["weight"], plain["weight"] * weight[nearest], rtol=1e-6)
    np.testing.assert_array_equal(weighted["heatmap"], plain["heatmap"])


def test_gaussians_grow_with_the_zoom():
    """A car's σ is proportional to its size in the image, which a zoom changes and its depth does not."""
    xyz, zoom = camera.backproject(INTRINSICS, np.array([[40.0, 12.0]]), np.array([5.0])), 1.4

    def sigma(intrinsics):
        targets = encoded(xyz, np.eye(3)[None], TrainConfig(), intrinsics=intrinsics)
        row, column = divmod(targets["peak"].item(), SIZE[0])
        return np.sqrt(-0.5 / np.log(targets["heatmap"][0, row, column + 1]))

    expected = TrainConfig().radius * 1.5 * FOCAL / 5
    assert sigma(INTRINSICS) == pytest.approx(expected, rel=1e-5) and expected > 0.7
    assert sigma(np.diag([zoom, zoom, 1]) @ INTRINSICS) == pytest.approx(zoom * expected, rel=1e-5)
