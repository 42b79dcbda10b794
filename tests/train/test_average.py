"""The moving average is timm's, faster."""

import torch

import models.torchvision_shim  # noqa: F401  must come before timm
from carpose.train.average import MovingAverage


def test_agrees_with_timm_bit_for_bit():
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    ours = MovingAverage(model, 0.9)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=True, warmup_power=0.75)
    for step in range(40):
        model(torch.randn(2, 3, 8, 8))  # moves the statistics of the batch norm
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.follow(step)
        theirs.update(model, step)
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], tensor, rtol=0, atol=0)
