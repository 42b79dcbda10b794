"""A new head is one file and one entry: that of docs/extending.md and one more, up to the table of cars."""

import inspect

import numpy as np
import pytest
import torch

from carpose import heads
from carpose.config.train_config import TrainConfig
from carpose.heads import loss
from carpose.heads.head import make_heads
from carpose.network.checkpoint import build
from carpose.registry.heads import HEADS, HeadEntry
from tests.heads.made_up import SIZE, decoded, encoded, perfect_maps, scene, tensors, totals, zero_maps
from tests.helpers import code_blocks

SIDE = code_blocks("extending.md")["workflow/carpose/heads/side.py"]
BOX_WIDTH = '''
"""The width of a car's box in the picture, as one more depth."""

from .depth import PARAMETRISATIONS, DepthHead


class BoxWidth(DepthHead):
    parametrisation = PARAMETRISATIONS["inverse"]
'''


@pytest.fixture
def new_head(tmp_path, monkeypatch):
    """A function that writes a head's module and enters it: name, source, class, channels."""
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path)])

    def add(name: str, source: str, builder: str, channels: int) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        entry = HeadEntry(f"carpose.heads.{name}:{builder}", channels, loss_weight=0.5, optional=True)
        monkeypatch.setitem(HEADS, name, entry)

    return add


def learn(train_config, targets):
    """One forward and backward pass of the recipe's network; the losses by name."""
    network = build(train_config)
    outputs = network(torch.randn(1, 3, 4 * SIZE[1], 4 * SIZE[0]), targets["cell"])
    losses = loss.compute(outputs, targets, train_config, totals(targets))
    sum(losses[name] * weight for name, weight in loss.weights(train_config).items()).backward()
    for name in make_heads(train_config):
        assert network.heads[name].output.weight.grad.any(), name
    return losses


SMALL = {"backbone": "dla34", "width": 0.125, "neck_channels": 8}


def test_a_class_is_learnt_and_decoded(new_head):
    new_head("side", SIDE, "Side", 1)
    train_config = TrainConfig(heads=["side"], **SMALL)
    targets = encoded(*scene(), train_config)
    assert set(targets["side"].ravel()) == {0, 1}
    losses = learn(train_config, tensors(targets))
    assert list(losses) == ["heatmap", "offset", "depth", "rotation", "side"]
    assert float(losses["side"].detach()) == pytest.approx(np.log(2), rel=0.05)
    maps = perfect_maps(targets, train_config)
    maps["side"] = 2 * maps["side"] - 1
    cars = decoded(maps, train_config, 0.99)
    forward, xyz = scene()[1][:, :, 2], scene()[0]
    right = np.cross(xyz, forward)[:, 1] > 0
    assert sorted(cars["side"]) == sorted(np.where(right, "right", "left"))
    without = decoded(maps, TrainConfig(), 0.99)
    assert set(cars) - set(without) == {"side"}
    assert all(np.array_equal(cars[name], value) for name, value in without.items())


def test_one_more_depth_is_learnt_pooled_and_merged(new_head):
    new_head("box_width", BOX_WIDTH, "BoxWidth", 2)
    train_config = TrainConfig(heads=["height", "box_width"], **SMALL)
    xyz, turn = scene()
    targets = encoded(xyz, turn, train_config, noise=np.full(len(xyz), 0.02))
    assert {"box_width", "box_width_noise"} <= set(targets)
    assert float(learn(train_config, tensors(targets))["box_width"].detach()) > 0
    maps = zero_maps(train_config)
    maps["heatmap"][0, 0, 20, 60] = 1
    maps["offset"][0, 0, 20, 61] = -1.0  # the same centre, and the surest about it
    maps["box_width"][0, 0, 20, 61], maps["box_width"][0, 1, 20, 61] = 0.25, -5.0
    (z,) = decoded(maps, train_config, 0.99)["xyz"][:, 2]
    assert z == pytest.approx(35 / 1.25, rel=0.01)


def test_the_files_of_new_heads_are_short():
    assert max(len(inspect.cleandoc(source).splitlines()) for source in (SIDE, BOX_WIDTH)) < 30
