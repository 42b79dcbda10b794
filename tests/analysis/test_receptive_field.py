"""How much of the picture a cell sees: known networks, known gradients, the command line."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from carpose.analysis import receptive_field
from carpose.config.train_config import TrainConfig
from carpose.network.checkpoint import build, save_checkpoint
from tests.helpers import run_module


class Plain(nn.Module):
    """Two 3×3 convolutions, the first with stride 4: a cell sees 4·2+3 = 11 pixels, not all as strongly."""

    def __init__(self, middle=(), side=3):
        super().__init__()
        first = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.layers = nn.Sequential(
            first, nn.BatchNorm2d(4), nn.ReLU(), *middle, nn.Conv2d(4, 1, side, padding=side // 2)
        )

    def forward(self, x):
        return [{"depth": self.layers(x)}]


@pytest.mark.parametrize(
    "middle, expected",
    [((), 11), ([nn.MaxPool2d(3, 1, 1)], 19), ([nn.Conv2d(4, 4, 5, padding=2), nn.GroupNorm(2, 4)], 27)],
)
def test_theoretical_field_of_known_networks(middle, expected):
    torch.manual_seed(0)
    assert receptive_field.theoretical(Plain(middle), 3) == expected


def test_effective_field_holds_the_gradient():
    """The gradient of a normal profile: 90 % lie within ±1.645 σ, across and down."""
    y, x = np.mgrid[-100:101, -150:151]
    field = np.exp(-((x / 20) ** 2 + (y / 10) ** 2) / 2)
    wide, high = receptive_field.effective(field)
    assert wide == pytest.approx(2 * 1.645 * 20, abs=2) and high == pytest.approx(2 * 1.645 * 10, abs=2)


def test_gradient_lies_where_the_cell_looks():
    torch.manual_seed(0)
    model = Plain().eval()
    field = receptive_field.gradient(model, torch.randn(2, 3, 64, 128))
    rows, columns = np.nonzero(field)
    assert abs(rows.mean() - 32) < 2 and abs(columns.mean() - 64) < 2 and np.ptp(columns) + 1 <= 11


def test_command_line(prepared, tmp_path):
    train_config = TrainConfig(
        backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64
    )
    path = tmp_path / "round0" / "dla34" / "fold0" / "model.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, build(train_config).state_dict(), train_config, {})
    files = ("--cache", prepared / "cache", "--labels", prepared / "labels.parquet")
    outputs = ("--output", tmp_path / "fields.csv", "--picture", tmp_path / "fields.png")
    done = run_module("carpose.analysis", "receptive-field", "--checkpoints", path, *files, *outputs)
    table = pd.read_csv(tmp_path / "fields.csv")
    assert table["name"].tolist() == ["round0/dla34/fold0"] and (tmp_path / "fields.png").exists()
    assert (
        table["effective_width"] <= table["theoretical"]
    ).all() and "of all cars are nearer" in done.stdout
