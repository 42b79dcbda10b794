"""Published networks and pretrained weights."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carpose.registry.backbones import BACKBONES, backbone_of
from models import pretrained
from tests.helpers import Bomb
from tests.models.tiny import encoder_of, tiny

import timm  # isort: skip


EFFICIENTNETS = [name for name in BACKBONES if name.startswith("efficientnet")]


def published(name: str) -> nn.Module:
    """timm's network, with features of strides 4 to 32."""
    return timm.create_model(backbone_of(name).published, features_only=True, out_indices=(1, 2, 3, 4))


@pytest.mark.parametrize("backbone", EFFICIENTNETS)
def test_efficientnets_have_the_published_tensors(backbone):
    with torch.device("meta"):
        ours, theirs = encoder_of(backbone, 1.0), published(backbone)
    shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_b0"])
def test_efficientnets_compute_what_the_published_ones_do(backbone):
    """With another padding or epsilon the weights would load, but give other maps."""
    theirs, ours = published(backbone).eval(), encoder_of(backbone, 1.0).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 96)
    for one, other in zip(ours(image), theirs(image), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
def test_weights_of_timm_classifiers_fit_its_feature_extractors(name, tmp_path):
    """The hub has the weights of the classifier, whose tensor names differ from the feature extractor's."""
    torch.manual_seed(1)
    classifier = timm.create_model(name)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(2)
    encoder = encoder_of(f"timm:{name}", 1.0)
    pretrained.load_pretrained(encoder.state_dict(), str(tmp_path / "w.pth"))
    theirs = timm.create_model(name, features_only=True, out_indices=encoder.feature_info.out_indices)
    weights = {key.replace(".", "_"): value for key, value in classifier.state_dict().items()}
    theirs.load_state_dict({key: weights[key.replace(".", "_")] for key in theirs.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    for one, other in zip(encoder.eval()(image), theirs.eval()(image), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "dla34", "hourglass"])
def test_weights_files_round_trip(backbone, suffix, tmp_path):
    source = tiny(backbone).eval()
    weights = source.backbone_state()
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    loaded = tiny(backbone, pretrained=str(path)).backbone_state()
    assert not any(name.startswith("heads.") for name in loaded) and loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_weights_with_other_names_are_copied_by_order(tmp_path):
    source = encoder_of("efficientnet_lite0", 0.125).state_dict()
    renamed = {f"_other.{i}": t for i, (n, t) in enumerate(source.items()) if "num_batches" not in n}
    torch.save(renamed | {"_fc.weight": torch.zeros(10, 10)}, tmp_path / "w.pth")
    encoder = tiny("efficientnet_lite0", pretrained=str(tmp_path / "w.pth")).encoder.state_dict()
    assert all(torch.equal(encoder[name], source[name]) for name in source)


def test_additional_input_channels_start_without_influence(tmp_path):
    source = encoder_of("dla34", 0.125)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    encoder = tiny("dla34", in_channels=4, pretrained=str(tmp_path / "w.pth")).encoder
    image = torch.randn(1, 3, 64, 64)
    extended = torch.cat([image, torch.randn(1, 1, 64, 64)], dim=1)
    for ours, theirs in zip(encoder.eval()(extended), source.eval()(image), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_group_norm_keeps_pretrained_scale_and_shift(tmp_path):
    weights = encoder_of("dla34", 0.125).state_dict()
    weights["base_layer.1.weight"].fill_(3.0)
    torch.save(weights, tmp_path / "w.pth")
    model = tiny("dla34", norm="group", pretrained=str(tmp_path / "w.pth"))
    first = next(module for module in model.modules() if isinstance(module, nn.GroupNorm))
    assert (first.weight == 3).all()


def test_weights_that_do_not_fit_are_errors(tmp_path):
    torch.save(encoder_of("efficientnet_lite0", 0.25).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"wide.pth.*check backbone and width"):
        tiny("efficientnet_lite0", pretrained=str(tmp_path / "wide.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text.pth: not a weights file"):
        tiny("dla34", pretrained=str(tmp_path / "text.pth"))
    with pytest.raises(ValueError, match="is not a file; use none, hub or the path"):
        tiny("dla34", pretrained="imagenet")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_weights_that_would_run_code_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="other objects than tensors, which might run code; save it as"):
        pretrained.read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_an_unreachable_hub_is_an_error(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(pretrained.timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"tf_net could not be fetched.*set pretrained: none"):
        pretrained.from_hub("tf_net")
