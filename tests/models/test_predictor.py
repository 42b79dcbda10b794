"""Batch norms folded into convolutions."""

import pytest
import torch
from torch import nn

from models.predictor import fold_batch_norms
from tests.models.tiny import FAMILIES, flat, tiny

from timm.layers import convert_sync_batchnorm  # isort: skip


@pytest.mark.parametrize("backbone, norm", [*((name, "batch") for name in FAMILIES), ("dla34", "group")])
def test_batch_norms_fold_into_convolutions(backbone, norm):
    torch.manual_seed(0)
    model = tiny(backbone, norm=norm, in_channels=4).double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after a training
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    model.eval()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    folded = fold_batch_norms(model, 4)
    images = torch.randn(2, 4, 64, 96, dtype=torch.double)
    with torch.inference_mode():
        torch.testing.assert_close(flat(folded(images)), flat(model(images)), rtol=1e-6, atol=1e-6)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert all(map(torch.equal, before, model.state_dict().values())), "the original network is not changed"
    shared = fold_batch_norms(convert_sync_batchnorm(model), 4)
    with torch.inference_mode():
        torch.testing.assert_close(flat(shared(images)), flat(folded(images)))
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in shared.modules())


def test_batch_norms_that_cannot_be_folded_stay():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.convolution(self.norm(self.convolution(x))))

    changed = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(3))
    for model in (Shared(), changed):
        norm = model.eval().get_submodule("norm" if model is not changed else "2")
        nn.init.normal_(norm.running_mean)
        x = torch.randn(1, 3, 4, 4)
        assert torch.equal(fold_batch_norms(model)(x), model(x))
