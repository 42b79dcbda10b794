"""Networks from training configurations and the registry; a new backbone is one short file and one entry."""

import pytest
import torch

import models
from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.heads import loss
from carpose.heads.head import make_heads
from carpose.network.checkpoint import build
from carpose.registry.backbones import BACKBONES, Backbone
from models.predictor import Predictor, fold_batch_norms
from tests.heads.made_up import SIZE, encoded, scene, tensors, totals
from tests.helpers import code_blocks
from tests.models.tiny import count_parameters

SMALL = {"width": 0.125, "neck_channels": 8}
PLAIN = code_blocks("extending.md")["models/plain.py"]


def train_and_predict(train_config):
    """One forward and backward pass, and one of prediction."""
    network = build(train_config)
    targets = tensors(encoded(*scene(), train_config))
    images = torch.randn(1, 3, 4 * SIZE[1], 4 * SIZE[0])
    losses = loss.compute(network(images, targets["cell"]), targets, train_config, totals(targets))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    predictor = Predictor(fold_batch_norms(network))
    with torch.inference_mode():
        heatmap, features = predictor(images)
        poses = predictor.outputs_at(features, torch.arange(5))
    assert heatmap.shape == (1, 1, *SIZE[::-1])
    assert set(poses) == set(make_heads(train_config)) - {"heatmap"}
    return network


def test_a_new_backbone_is_one_short_file_and_one_entry(tmp_path, monkeypatch):
    assert len(PLAIN.splitlines()) < 20
    (tmp_path / "plain.py").write_text(PLAIN)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    entry = Backbone("models.plain:Plain", neck="unet", options={"first": 64}, keys=())
    monkeypatch.setitem(BACKBONES, "plain", entry)
    network = train_and_predict(TrainConfig(backbone="plain", **SMALL))
    assert network.encoder.levels[0][0].out_channels == 8 and type(network.neck).__name__ == "Unet"
    narrow, wide = (build(TrainConfig(backbone="plain", neck="fpn", width=width)) for width in (0.25, 0.5))
    assert count_parameters(narrow) < count_parameters(wide)


def test_networks_of_timm_are_backbones_as_they_are():
    network = train_and_predict(TrainConfig(backbone="timm:resnet18", neck_channels=8, heads=["height"]))
    assert network.encoder.feature_info.channels() == [64, 128, 256, 512]


def test_the_default_neck_and_the_keys_are_those_of_the_entry():
    def neck(**settings):
        return type(build(TrainConfig(**SMALL, **settings)).neck).__name__

    assert neck(backbone="dla34") == "Ida" and neck(backbone="efficientnet_b0") == "Fpn"
    assert neck(backbone="dla34", neck="fpn") == "Fpn"
    hourglass = build(TrainConfig(backbone="hourglass", neck="fpn", stacks=3, modules=1, **SMALL))
    assert len(hourglass.hourglasses) == 3, "a whole network has no neck"


def test_the_mask_is_a_fourth_channel():
    network = build(TrainConfig(backbone="dla34", mask_channel=True, **SMALL))
    assert len(network(torch.randn(2, 4, 64, 64))) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"backbone": "timm:resnet18", "width": 0.5},
            "width: invalid value 0.5; timm's resnet18 supports only width 1",
        ),
        ({"backbone": "timm:no_such"}, "timm cannot build no_such as a feature extractor"),
        ({"backbone": "timm:vit_tiny_patch16_224"}, "has maps of strides 16 .*strides 4, 8, 16, 32"),
        ({"backbone": "timm:swin_tiny_patch4_window7_224"}, "as NHWC"),
        ({"backbone": "resnet18"}, "backbone: invalid value 'resnet18'; use one of .*or timm:NAME"),
        ({"width": 0.5, "pretrained": "hub"}, "no weights of dla34 at width 0.5"),
        ({"backbone": "hourglass", "pretrained": "hub"}, "no weights of hourglass at width 1"),
        ({"pretrained": "nowhere.pth"}, "nowhere.pth is not a file; use none, hub or the path"),
    ],
)
def test_networks_that_cannot_be_built_are_errors(settings, message):
    with pytest.raises(UserError, match=message):
        build(TrainConfig(**settings))
