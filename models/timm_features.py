"""Any network of timm with feature maps of strides 4, 8, 16 and 32."""

from torch import nn

from . import torchvision_shim  # noqa: F401  before timm

from timm import create_model  # isort: skip
from timm.layers import Format  # isort: skip

STRIDES = (4, 8, 16, 32)


def timm_features(width: float, in_channels: int, *, name: str) -> nn.Module:
    """The encoder of timm's network `name`, with random weights.

    Raises ValueError if timm has no such network, if it has no maps of these strides, or if width is not 1.
    """
    if width != 1:
        raise ValueError(f"width: invalid value {width:g}; timm's {name} supports only width 1")
    options = {"features_only": True, "in_chans": in_channels}
    try:
        encoder = create_model(name, **options)
    except Exception as error:  # the type depends on the network
        raise ValueError(
            f"timm cannot build {name} as a feature extractor ({error}); use another backbone"
        ) from error
    levels = {level["reduction"]: index for index, level in enumerate(encoder.feature_info.info)}
    layout = getattr(encoder, "output_fmt", Format.NCHW)
    if layout != Format.NCHW or not set(STRIDES) <= set(levels):
        raise ValueError(
            f"timm's {name} has maps of strides {', '.join(map(str, levels))} as {layout.value}; strides "
            f"{', '.join(map(str, STRIDES))} as NCHW are needed; use another backbone, such as timm:resnet18"
        )
    return create_model(name, **options, out_indices=[levels[stride] for stride in STRIDES])
