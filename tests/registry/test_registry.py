"""The registry of backbones, necks and heads."""

import subprocess
import sys

import pytest

from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from carpose.heads.head import make_heads
from carpose.registry import resolve
from carpose.registry.backbones import BACKBONES, NECKS, backbone_of, on_hub, published_name
from carpose.registry.heads import HEADS
from tests.helpers import ENVIRONMENT


def test_the_registry_imports_no_library():
    code = (
        "import sys, models, carpose.registry.backbones, carpose.registry.heads\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


BUILDERS = [entry.builder for entry in (*BACKBONES.values(), *HEADS.values())]


@pytest.mark.parametrize("dotted", sorted({*BUILDERS, *NECKS.values()}))
def test_every_dotted_name_can_be_imported(dotted):
    assert callable(resolve(dotted))


def test_train_config_has_the_keys_of_backbones():
    fields = set(vars(TrainConfig()))
    assert {key for entry in BACKBONES.values() for key in entry.keys} <= fields


def test_published_weights_are_of_width_one():
    assert on_hub("efficientnet_b0", 1) and not on_hub("efficientnet_b0", 0.5) and not on_hub("hourglass", 1)
    assert published_name("efficientnet_b0", 1) == "efficientnet_b0"
    assert published_name("efficientnet_lite0", 1) == "tf_efficientnet_lite0"
    assert published_name("timm:resnet18", 1) == "resnet18"
    with pytest.raises(UserError, match=r"no weights of dla34 at width 0.25; set pretrained: none"):
        published_name("dla34", 0.25)


def test_an_unknown_backbone_is_an_error():
    for name in ("resnet18", "timm:"):
        with pytest.raises(UserError, match="efficientnet_b0.*hourglass, or timm:NAME"):
            backbone_of(name)


def test_heads_have_the_registry_s_order():
    """The random initialisation and the order in which losses are summed depend on it."""
    fixed = ["heatmap", "offset", "depth", "rotation"]
    assert list(make_heads(TrainConfig())) == fixed
    assert list(make_heads(TrainConfig(heads=["height"]))) == [*fixed[:3], "height", "rotation"]
    for name, head in make_heads(TrainConfig(heads=["height"])).items():
        assert (head.name, head.channels) == (name, HEADS[name].channels)
