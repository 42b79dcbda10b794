"""The recipe of one training: every choice that its weights depend on.

The fields are the keys under `train:`, `retrain:` and `models:` of the configuration and the options of
`python -m carpose.train`. A recipe knows no rounds: that of a later round has `retrain:` laid over it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from carpose.registry.backbones import BACKBONES, NECKS, TIMM
from carpose.registry.heads import HEADS

from .keys import key

OPTIONAL_HEADS = [name for name, entry in HEADS.items() if entry.optional]
CROP = {"items": {"minimum": -1, "maximum": 2}, "minItems": 4, "maxItems": 4, "format": "rectangle"}
# What a network is made of: a warm start needs the same in both rounds.
NETWORK = ["backbone", "width", "neck", "neck_channels", "stacks", "modules", "norm", "mask_channel", "heads"]


@dataclass(frozen=True)
class TrainConfig:
    """What a training's weights depend on."""

    # The network
    backbone: str = key(
        "dla34",
        f"{', '.join(BACKBONES)}, or {TIMM}NAME for a network of timm with features of strides 4 to 32",
        pattern=rf"^({'|'.join(BACKBONES)}|{TIMM}.+)$",
    )
    width: float = key(1.0, "factor on the channels of the backbone", 0.05, 2)
    neck: str = key("", "up-sampling neck; empty: the backbone's default", enum=["", *NECKS])
    neck_channels: int = key(64, "channels of the neck's output", 8, 512)
    stacks: int = key(2, "hourglass only: number of stacks", 1, 8)
    modules: int = key(2, "hourglass only: residual blocks per scale", 1, 8)
    norm: str = key("batch", "normalisation layers", enum=["batch", "group"])
    pretrained: str = key("none", "none, hub, or the path of an existing file of weights", format="weights")
    mask_channel: bool = key(False, "feed the mask of cars that do not count as a fourth channel")
    # The network's view of a photo
    input_width: int = key(1536, "pixels, a multiple of 32", 64, 8192, multipleOf=32)
    input_height: int = key(512, "pixels, a multiple of 32", 64, 8192, multipleOf=32)
    crop: list[float] = key(
        [0.0, 0.5, 1.0, 1.0],
        "left top right bottom, with left < right and top < bottom, fractions of the photo; beyond it pads",
        **CROP,
    )
    perspective: float = key(
        0.0, "enlarge the input's top rows (the distance) by 1 + this, shrink the bottom", 0, 2
    )
    # Augmentation (all exact: see carpose.data.augment)
    flip: float = key(0.5, "probability of a mirror", 0, 1)
    rotate_deg: list[float] = key(
        [5.0, 2.0, 5.0],
        "camera rotation: pan, tilt, roll, at most ± degrees",
        items={"minimum": 0, "maximum": 45},
        minItems=3,
        maxItems=3,
    )
    zoom: float = key(0.1, "scale by a factor of at most 1 ± this, folded into the intrinsics", 0, 1)
    shift: float = key(0.02, "shift by at most ± this fraction of the input, folded into them too", 0, 1)
    colour: float = key(0.5, "strength of brightness, contrast, hue, noise and blur", 0, 1)
    # Heads and their targets
    heads: list[str] = key(
        [],
        "heads beside heatmap, offset, depth and rotation: "
        + "; ".join(f"{name} ({HEADS[name].help})" for name in OPTIONAL_HEADS),
        items={"enum": OPTIONAL_HEADS},
        uniqueItems=True,
    )
    depth: str = key("log", "what the depth head predicts", enum=["log", "direct", "inverse", "sigmoid"])
    position: str = key("ray", "x and y from centre and depth, or in metres", enum=["ray", "regressed"])
    radius: float = key(
        0.3, "σ of a heat-map peak, a fraction of the car's height in cells", exclusiveMinimum=0, maximum=2
    )
    # Losses
    heatmap_loss: str = key("focal", "loss of the heat map", enum=["focal", "bce"])
    loss_weights: dict[str, float] = key(
        {},
        "weights of the heads' losses where they are not "
        + ", ".join(f"{name} {entry.loss_weight:g}" for name, entry in HEADS.items()),
        properties={name: {"minimum": 0} for name in HEADS},
    )
    # Optimisation
    epochs: int = key(30, "an epoch has as many samples as there are labelled photos", 1, 1000)
    batch_size: int = key(8, "photos per step", 1, 512)
    optimizer: str = key(
        "adamw",
        "muon is carpose.train.muon, the others are timm's",
        enum=[
            *("muon", "adamw", "adam", "nadamw", "radam", "adan"),
            *("adopt", "lamb", "lion", "sgd", "rmsprop", "madgrad"),
        ],
    )
    schedule: str = key(
        "cosine",
        "how the learning rate falls after the warm-up: schedules of timm",
        enum=["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"],
    )
    lr: float = key(5e-4, "peak learning rate", 1e-6, 1)
    lr_scaling: str = key(
        "none", "the rate is for lr_batch_size; scale it with batch_size", enum=["none", "sqrt", "linear"]
    )
    lr_batch_size: int = key(8, "the batch size that lr is meant for, see lr_scaling", 1, 65536)
    weight_decay: float = key(1e-2, "weight decay", 0, 1)
    warmup: float = key(0.05, "share of the steps in which the rate rises, before it falls", 0, 1)
    clip_norm: float = key(10.0, "gradients are clipped to this norm", exclusiveMinimum=0)
    ema_decay: float = key(0.998, "decay of the moving average of weights that is the result", 0, 1)
    on_nan: str = key(
        "stop",
        "on a loss that is not finite: stop, or go back to the last state at half the rate",
        enum=["stop", "rollback"],
    )
    # Later rounds alone
    start: str = key(
        "warm", "with the weights of the round before, or anew", later=True, enum=["warm", "scratch"]
    )
    pseudo_share: float = key(0.5, "share of the samples drawn from pseudo-labelled photos", 0, 1, later=True)
    pseudo_augment_scale: float = key(
        1.0, "factor on the augmentation of pseudo-labelled photos", 0, 5, later=True
    )
    # Computing
    amp: str = key("auto", "number format of the forward pass", enum=["auto", "off", "bf16", "fp16"])
    threads: int = key(1, "torch threads on the CPU; others give other weights", 1, 64)
    seed: int = key(0, "seed of weights, order and augmentation", 0)
    revision: int = key(0, "raise it by hand to train anew without another change", 0)

    def digest(self) -> str:
        """A short hash of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def loss_weight_of(self, head: str) -> float:
        """The weight of a head's loss."""
        return self.loss_weights.get(head, HEADS[head].loss_weight)
