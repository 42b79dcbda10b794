"""Maps → cars: the inverse of the targets; peaks; pooled and merged depths."""

import numpy as np
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.geometry import rotation
from carpose.heads.decode import CENTRE_SIGMA, merge, pool
from carpose.heads.depth import PARAMETRISATIONS, TYPICAL_DEPTH
from carpose.heads.head import Detections, make_heads
from carpose.heads.heatmap import peaks
from tests import reference
from tests.heads.made_up import (
    FOCAL,
    INTRINSICS,
    decoded,
    encoded,
    from_left_to_right,
    outputs_from,
    perfect_maps,
    random_maps,
    scene,
    zero_maps,
)

BOTH = TrainConfig(heads=["height"])


@pytest.mark.parametrize("threshold, most", [(0.2, 1000), (0.6, 1000), (0.2, 7), (2.0, 7)])
def test_peaks_agree_with_the_literal_loop(threshold, most):
    """With scores in coarse steps, so that neighbours and peaks can be equal."""
    score = torch.randint(0, 20, (3, 17, 23), generator=torch.Generator().manual_seed(0)) / 20
    cell = peaks(score, threshold, most)
    expected = []
    for photo, one in enumerate(score.numpy()):
        cells = reference.peaks(one, threshold)
        cells.sort(key=lambda place: -one[place])  # stable, as ours
        expected += [photo * one.size + row * 23 + column for row, column in cells[:most]]
    assert cell.tolist() == expected and bool(expected) == (threshold < 1)


def test_a_peak_may_be_as_low_as_the_threshold():
    score = torch.zeros(1, 5, 6)
    score[0, 1, 2], score[0, 3, 4] = 0.25, 0.2499
    assert peaks(score, 0.25, 10).tolist() == [8]


@pytest.mark.parametrize(
    "settings",
    [
        *({"depth": depth} for depth in PARAMETRISATIONS),
        {"position": "regressed"},
        {"heads": ["height"]},
        {"heads": ["height"], "position": "regressed", "depth": "inverse"},
    ],
    ids=str,
)
def test_decode_inverts_encode(settings):
    train_config = TrainConfig(**settings)
    xyz, turn = scene()
    cars = decoded(perfect_maps(encoded(xyz, turn, train_config), train_config), train_config, 0.99)
    assert len(cars["xyz"]) == len(xyz)
    order, expected = from_left_to_right(cars["xyz"]), from_left_to_right(xyz)
    np.testing.assert_allclose(cars["xyz"][order], xyz[expected], rtol=2e-4, atol=2e-3)
    turns = rotation.matrix(cars["angles"][order])
    np.testing.assert_allclose(turns, turn[expected], atol=2e-5)


@pytest.mark.parametrize("position", ["ray", "regressed"])
def test_no_cars_are_a_table_of_no_rows(position):
    train_config = TrainConfig(heads=["height"], position=position)
    cars = decoded(zero_maps(train_config), train_config, 0.9)
    assert cars["xyz"].shape == cars["angles"].shape == (0, 3) and cars["depth_sigma"].shape == (0,)


def test_two_depths_are_merged_by_their_uncertainty():
    """All nine cells have the same outputs, so that pooling changes nothing."""
    maps = zero_maps(BOTH)
    maps["heatmap"][0, 0, 20, 60] = 1
    maps["depth"][0, 1], maps["height"][0, 1], maps["height"][0, 0] = -2.0, -5.0, 0.1
    depth_by_height = TYPICAL_DEPTH / 1.1
    (z,) = decoded(maps, BOTH, 0.9)["xyz"][:, 2]
    assert depth_by_height < z < depth_by_height * 1.01, "the one with the smaller σ dominates"
    maps["depth"][0, 1], maps["height"][0, 1] = -5.0, -2.0
    (z,) = decoded(maps, BOTH, 0.9)["xyz"][:, 2]
    assert TYPICAL_DEPTH * 0.99 < z < TYPICAL_DEPTH
    # A height below 0 corresponds to no depth: its predicted σ is ignored.
    maps["height"][0, 0], maps["height"][0, 1] = -1.5, -5.0
    cars = decoded(maps, BOTH, 0.9)
    assert cars["xyz"][0, 2] == pytest.approx(TYPICAL_DEPTH, rel=0.01)
    assert 0.005 < cars["depth_sigma"][0] < 0.05


@pytest.mark.parametrize("depth", list(PARAMETRISATIONS))
def test_the_scale_of_a_label_is_decoded_as_its_standard_deviation(depth):
    """The targets' Laplace scale of an error of log z, as a network's output."""
    train_config, sigma = TrainConfig(depth=depth), np.array([0.02, 0.05, 0.1])
    xyz, turn = scene(3)
    targets = encoded(xyz, turn, train_config, noise=sigma)
    output = np.column_stack([targets["depth"], np.log(targets["depth_noise"])]).astype(float)
    detections = Detections(np.zeros(len(output)), np.zeros((len(output), 2)), INTRINSICS, FOCAL)
    z, decoded_sigma = make_heads(train_config)["depth"].depth(output, detections)
    for car in range(3):
        of_car = np.isclose(z, xyz[car, 2], rtol=1e-3)
        assert of_car.any()
        np.testing.assert_allclose(decoded_sigma[of_car], sigma[car], rtol=0.01)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_depths_is_merged_as_by_the_formula(count):
    rng = np.random.default_rng(count)
    z, sigma = np.exp(rng.normal(3, 1, (count, 20))), rng.uniform(0.01, 10, (count, 20))
    merged_z, merged_sigma = merge(list(zip(z, sigma, strict=True)))
    weights = sigma**-2.0
    np.testing.assert_allclose(merged_z, np.exp(np.average(np.log(z), axis=0, weights=weights)), rtol=1e-12)
    np.testing.assert_allclose(merged_sigma, np.average(sigma, axis=0, weights=weights), rtol=1e-12)


def test_pooled_outputs_agree_with_the_literal_loop():
    """For random outputs at all cells of a batch, including those at the edges."""
    width, height = 7, 5
    maps, cells = random_maps(BOTH, (3, height, width)), torch.arange(3 * width * height)
    plain = outputs_from(maps)(cells)
    heads = {name: head for name, head in make_heads(BOTH).items() if name != "heatmap"}
    pooled = pool(outputs_from(maps), cells, (width, height), heads)
    assert pooled.keys() == plain.keys()
    for name in ("offset", "rotation"):
        torch.testing.assert_close(pooled[name], plain[name])
    for name in ("depth", "height"):
        for cell in cells.tolist():
            photo, row, column = cell // 35, cell // 7 % 5, cell % 7
            centre = np.array([column, row]) + plain["offset"][cell].numpy()
            total, weights = np.zeros(2), 0.0
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    other = photo * 35 + y * 7 + x
                    offset, value = plain["offset"][other].numpy(), plain[name][other].numpy()
                    apart = np.hypot(*(np.array([x, y]) + offset - centre)) / CENTRE_SIGMA
                    precision = np.exp(-value[1]) ** 2
                    weight = precision * np.exp(-(offset @ offset) / 2) * np.exp(-(apart**2) / 2)
                    total, weights = total + weight * value, weights + weight
            np.testing.assert_allclose(pooled[name][cell], total / weights, rtol=1e-4, atol=1e-5)


def test_the_cell_of_the_car_with_the_smallest_sigma_gives_the_depth():
    """But not a cell with the same σ that belongs to another car."""
    maps = zero_maps(TrainConfig())
    maps["heatmap"][0, 0, 20, 60] = 1
    maps["offset"][0, 0, 20, 61] = -1.0  # the same centre
    maps["depth"][0, :, 20, 61] = torch.tensor([0.1, -5.0])
    maps["depth"][0, :, 20, 59] = torch.tensor([-0.5, -5.0])  # its centre: a cell away
    z = decoded(maps, TrainConfig(), 0.9)["xyz"][0, 2]
    np.testing.assert_allclose(z, TYPICAL_DEPTH * np.exp(0.1), rtol=0.01)


def test_regressed_positions_are_not_pooled():
    """Their neighbours do not predict where the centre is."""
    train_config = TrainConfig(position="regressed")
    maps = random_maps(train_config)
    maps["heatmap"] = torch.zeros_like(maps["heatmap"])
    maps["heatmap"][0, 0, 20, 60] = 1
    z = decoded(maps, train_config, 0.9)["xyz"][0, 2]
    np.testing.assert_allclose(z, TYPICAL_DEPTH * np.exp(float(maps["depth"][0, 0, 20, 60])), rtol=1e-6)
