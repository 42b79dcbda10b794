"""The optimisers, the learning rate at every step, and the moving average of the network weights."""

import numpy as np
import pytest
import torch

from carpose.config.keys import properties
from carpose.config.train_config import TrainConfig
from carpose.train import state
from carpose.train.optimizer import MovingAverage, lr_schedule, make_optimizer, scaled_lr

from timm.utils import ModelEmaV3  # isort: skip


def test_learning_rate_rises_then_falls():
    lrs = [*map(lr_schedule("cosine", 100, 1.0, 0.1), range(100))]
    assert lrs[9] == pytest.approx(1.0) and lrs[0] == pytest.approx(0.1)
    assert lrs[10:] == sorted(lrs[10:], reverse=True) and lrs[-1] < 0.02


@pytest.mark.parametrize("name", ["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"])
def test_schedules_of_timm(name):
    """The rate never rises after the warm-up, and does not depend on where a training resumes."""
    lrs = [*map(lr_schedule(name, 200, 0.01, 0.1), range(200))]
    assert max(lrs) == pytest.approx(0.01) and (np.diff(lrs[20:]) <= 0).all()
    assert lrs[-1] < 0.0011 or name == "constant"
    assert lr_schedule(name, 200, 0.01, 0.1)(150) == lrs[150]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_learning_rate_follows_the_batch(scaling, factor):
    train_config = TrainConfig(batch_size=32, lr_batch_size=8, lr_scaling=scaling, lr=0.001)
    assert scaled_lr(train_config) == pytest.approx(0.001 * factor)


def test_the_moving_average_is_timm_s_bit_for_bit():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    ours = MovingAverage(model, 0.9)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=True, warmup_power=0.75)
    for step in range(40):
        model(torch.randn(2, 3, 8, 8))  # moves the statistics of the batch norm
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_from_model(step)
        theirs.update(model, step)
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", properties(TrainConfig)["optimizer"]["enum"])
def test_every_optimiser_trains_and_its_state_can_be_saved(name, tmp_path):
    """Its state can be loaded with weights_only."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1))
    optimizer = make_optimizer(model, TrainConfig(optimizer=name), 0.1)
    before = model[0].weight.detach().clone()
    for _ in range(2):  # some do not update in the first step
        optimizer.zero_grad()
        model(torch.ones(1, 3, 4, 4)).square().mean().backward()
        optimizer.step()
    assert not torch.equal(before, model[0].weight) and model[0].weight.isfinite().all()
    state.save(tmp_path / "state.pt", "a", optimizer.state_dict())
    optimizer.load_state_dict(state.load(tmp_path / "state.pt", "a"))
