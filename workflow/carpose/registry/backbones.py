"""The backbones and the necks. A new backbone is a builder in `models/` and one entry here.

A builder is called as builder(width, in_channels, **options, **keys) and returns an encoder: feature maps of
strides 4, 8, 16 and 32, with timm's `feature_info.channels()`. The builder of a complete network (neck None)
also gets `heads` (channels by name) and `hidden` (channels within the heads), see models.build.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from carpose.core.errors import UserError

TIMM = "timm:"  # prefix: `timm:NAME` is any network of timm with feature maps of these strides


@dataclass(frozen=True)
class Backbone:
    """A backbone's entry, for the configuration and for building the network."""

    builder: str  # dotted name
    neck: str | None = "fpn"  # the default neck; None: a complete network, which takes no neck
    options: Mapping = field(default_factory=dict)  # further arguments of the builder
    keys: tuple[str, ...] = ()  # keys of TrainConfig, beside width, that are arguments of the builder
    published: str | None = None  # timm's name of the network whose published weights fit at width 1
    fixed_width: bool = False  # whether width must be 1


# Compound scaling: factors on channels and on depth (Tan & Le 2019; lite: from their reference code).
EFFICIENTNETS = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4),
    "b4": (1.4, 1.8), "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1),
    "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8),
}  # fmt: skip


def _efficientnet(size: str) -> Backbone:
    channels, depth = EFFICIENTNETS[size]
    lite = size.startswith("lite")
    # Weights that were trained in TensorFlow need its padding and its epsilon in batch norm. With timm's
    # defaults they would load without an error, but the feature maps would be wrong.
    tensorflow = lite or size in ("b6", "b7")
    return Backbone(
        "models.efficientnet:efficientnet",
        options={"channels": channels, "depth": depth, "lite": lite, "tensorflow": tensorflow},
        published=f"tf_efficientnet_{size}" if tensorflow else f"efficientnet_{size}",
    )


BACKBONES: dict[str, Backbone] = {
    **{f"efficientnet_{size}": _efficientnet(size) for size in EFFICIENTNETS},
    "dla34": Backbone("models.dla34:dla34", neck="ida", published="dla34"),
    "hourglass": Backbone("models.hourglass:HourglassNet", neck=None, keys=("stacks", "modules")),
}

# Dotted class by name: class(channels of the encoder's maps, output channels) → one map of stride 4.
NECKS = {"fpn": "models.necks:Fpn", "ida": "models.necks:Ida", "unet": "models.necks:Unet"}


def backbone_of(name: str) -> Backbone:
    """The entry of a registered name or of `timm:NAME`. Raises UserError for another name."""
    if name.startswith(TIMM) and name != TIMM:
        network = name.removeprefix(TIMM)
        return Backbone(
            "models.timm_features:timm_features",
            options={"name": network},
            published=network,
            fixed_width=True,
        )
    if name not in BACKBONES:
        raise UserError(
            f"backbone: invalid value {name!r}; use one of {', '.join(BACKBONES)}, or {TIMM}NAME for a "
            "network of timm"
        )
    return BACKBONES[name]


def on_hub(name: str, width: float) -> bool:
    """Whether published weights exist for the backbone at this width."""
    return backbone_of(name).published is not None and width == 1


def published_name(name: str, width: float) -> str:
    """timm's name of the network whose published weights fit. Raises UserError where there are none."""
    published = backbone_of(name).published
    if published is None or not on_hub(name, width):
        raise UserError(
            f"pretrained: the hub has no weights of {name} at width {width:g}; set pretrained: none, or the "
            "path of a file of weights"
        )
    return published
