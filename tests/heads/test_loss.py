"""The losses against their formulas."""

import numpy as np
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.heads import loss
from tests.heads.made_up import SIZE, encoded, losses_of, perfect_maps, random_maps, scene

BOTH = TrainConfig(heads=["height"])


def test_focal_loss_against_the_formula():
    """CornerNet eq. 1, cell by cell, in plain Python."""
    targets = encoded(*scene(5), TrainConfig())
    maps = random_maps(TrainConfig())
    p = 1 / (1 + np.exp(-maps["heatmap"][0, 0].double().numpy()))
    y = targets["heatmap"][0].astype(float)
    value = np.where(y == 1, (1 - p) ** 2 * -np.log(p), (1 - y) ** 4 * p**2 * -np.log(1 - p)).sum() / 5
    losses = losses_of([maps], targets, TrainConfig())
    assert float(losses["heatmap"]) == pytest.approx(value, rel=1e-4)


def test_cross_entropy_against_the_formula():
    """With the heat map as soft target, divided by its sums on and off the peaks; half of it is ignored."""
    train_config = TrainConfig(heatmap_loss="bce")
    targets, maps = encoded(*scene(5), train_config), random_maps(train_config)
    targets["ignore"][:, :, 60:] = True
    p = 1 / (1 + np.exp(-maps["heatmap"][0, 0].double().numpy()))
    y = targets["heatmap"][0].astype(float)
    error = -(y * np.log(p) + (1 - y) * np.log(1 - p)) * ~targets["ignore"][0]
    value = (error * y).sum() / y.sum() + 10 * (error * (1 - y)).sum() / (1 - y).sum()
    losses = losses_of([maps], targets, train_config)
    assert float(losses["heatmap"]) == pytest.approx(value, rel=1e-4)


def test_ignored_cells_have_no_gradient():
    targets = encoded(*scene(1), TrainConfig(), weight=np.zeros(1))
    maps = {name: value.requires_grad_() for name, value in random_maps(TrainConfig()).items()}
    losses_of([maps], targets, TrainConfig())["heatmap"].backward()
    gradient = maps["heatmap"].grad[:, 0]
    assert (gradient[torch.from_numpy(targets["ignore"])] == 0).all()
    assert (gradient[torch.from_numpy(~targets["ignore"])] != 0).all()


@pytest.mark.parametrize("noisy", [False, True])
def test_losses_at_cells_against_their_formulas(noisy):
    """Cell by cell and channel by channel; the label's variance is added to the network's."""
    xyz, turn = scene()
    noise = np.linspace(0, 0.1, len(xyz)) if noisy else None
    targets, maps = encoded(xyz, turn, BOTH, noise=noise), random_maps(BOTH)
    losses = losses_of([maps], targets, BOTH)
    total = float(targets["weight"].sum())
    for name in ("offset", "depth", "height", "rotation"):
        expected = 0.0
        for row, cell in enumerate(targets["cell"].tolist()):
            output = maps[name][0, :, cell // SIZE[0], cell % SIZE[0]].double().numpy()
            if name in ("offset", "rotation"):
                error = np.abs(output - targets[name][row]).mean()
            else:
                variance = np.exp(2 * output[1]) + (targets[f"{name}_noise"][row, 0] ** 2 if noisy else 0)
                error = abs(output[0] - targets[name][row, 0]) / np.sqrt(variance) + np.log(variance) / 2
            expected += targets["weight"][row] * error / total
        assert float(losses[name]) == pytest.approx(expected, rel=1e-4), name


def test_losses_of_perfect_maps():
    """Zero, but for a depth −6: log b, clamped from below."""
    targets = encoded(*scene(), BOTH)
    maps = perfect_maps(targets, BOTH)
    maps["heatmap"] = torch.where(maps["heatmap"] == 1, 20.0, -20.0)
    maps["depth"][:, 1] = maps["height"][:, 1] = -100
    losses = {name: float(value) for name, value in losses_of([maps], targets, BOTH).items()}
    expected = {"heatmap": 0, "offset": 0, "depth": -6, "height": -6, "rotation": 0}
    assert losses == pytest.approx(expected, abs=1e-5)


def test_losses_of_stacks_are_averaged():
    targets = encoded(*scene(), BOTH)
    stacks = [random_maps(BOTH, seed=seed) for seed in (0, 1)]
    both, first, second = (losses_of(part, targets, BOTH) for part in (stacks, stacks[:1], stacks[1:]))
    for name, value in both.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)


def test_a_batch_without_cars_has_losses_and_gradients():
    targets = encoded(np.empty((0, 3)), np.empty((0, 3, 3)), BOTH)
    maps = {name: value.requires_grad_() for name, value in random_maps(BOTH).items()}
    losses = losses_of([maps], targets, BOTH)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values()) and maps["heatmap"].grad.any()


def test_losses_come_in_the_order_of_their_weights():
    train_config = TrainConfig(heads=["height"], loss_weights={"rotation": 1.0})
    losses = losses_of([random_maps(train_config)], encoded(*scene(), train_config), train_config)
    assert list(losses) == list(loss.loss_weights(train_config))
    assert (
        loss.loss_weights(train_config)["rotation"] == 1.0
        and loss.loss_weights(TrainConfig())["rotation"] == 30.0
    )
