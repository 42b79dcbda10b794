"""The training configuration: every setting that the network weights of one training depend on.

The fields are the keys under `train:`, `retrain:` and `models:` of the configuration and the options of
`python -m carpose.train`. A TrainConfig is that of one round: for later rounds `retrain:` is laid over it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from carpose.registry.backbones import BACKBONES, NECKS, TIMM
from carpose.registry.heads import HEADS

from .keys import END, key

OPTIONAL_HEADS = [name for name, entry in HEADS.items() if entry.optional]
CROP: dict[str, Any] = {
    "items": {"minimum": -1, "maximum": 2},
    "minItems": 4,
    "maxItems": 4,
    "format": "rectangle",
}
# Keys that define the network: a warm start needs the same values in both rounds.
NETWORK = ["backbone", "width", "neck", "neck_channels", "stacks", "modules", "norm", "mask_channel", "heads"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings that the network weights of a training depend on."""

    # The network
    backbone: str = key(
        "dla34",
        f"{', '.join(BACKBONES)}, or {TIMM}NAME for a network of timm with features of strides 4 to 32",
        pattern=rf"^({'|'.join(BACKBONES)}|{TIMM}.+){END}",
    )
    width: float = key(1.0, "factor on the channels of the backbone", 0.05, 2)
    neck: str = key("", "up-sampling neck; empty: the backbone's default", enum=["", *NECKS])
    neck_channels: int = key(64, "channels of the neck's output", 8, 512)
    stacks: int = key(2, "hourglass only: number of stacks", 1, 8)
    modules: int = key(2, "hourglass only: residual blocks per scale", 1, 8)
    norm: str = key("batch", "normalisation layers", enum=["batch", "group"])
    pretrained: str = key("none", "none, hub, or the path of an existing file of weights", format="weights")
    mask_channel: bool = key(False, "add the mask of cars that do not count as a fourth input channel")
    # The network's view of a photo
    input_width: int = key(1536, "pixels, a multiple of 32", 64, 8192, multipleOf=32)
    input_height: int = key(512, "pixels, a multiple of 32", 64, 8192, multipleOf=32)
    crop: list[float] = key(
        [0.0, 0.5, 1.0, 1.0],
        "left top right bottom, with left < right and top < bottom, fractions of the photo; this part of "
        "what `cache.crop` keeps fills the input; what is outside the photo is padded",
        **CROP,
    )
    perspective: float = key(
        0.0, "warp: heights at the top (distant cars) grow by a factor of 1 + this, the bottom shrinks", 0, 2
    )
    # Augmentation (labels and intrinsics are changed exactly with the picture: see carpose.data.augment)
    flip: float = key(0.5, "probability of mirroring a sample (`predict.flip` is a test-time view)", 0, 1)
    rotate_deg: list[float] = key(
        [5.0, 2.0, 5.0],
        "camera rotation: pan, tilt, roll, each at most ± this many degrees",
        items={"minimum": 0, "maximum": 45},
        minItems=3,
        maxItems=3,
    )
    zoom: float = key(0.1, "scale by a random factor between 1 / (1 + this) and 1 + this", 0, 1)
    shift: float = key(0.02, "shift by at most ± this fraction of the input's size", 0, 1)
    colour: float = key(0.5, "strength of changes of brightness, contrast and hue, noise and blur", 0, 1)
    # Heads and their targets
    heads: list[str] = key(
        [],
        "heads beside heatmap, offset, depth and rotation: "
        + "; ".join(f"{name} ({HEADS[name].help})" for name in OPTIONAL_HEADS),
        items={"enum": OPTIONAL_HEADS},
        uniqueItems=True,
    )
    depth: str = key(
        "log",
        "what the depth head predicts (docs/method.md); sigmoid is log with the sign turned",
        enum=["log", "direct", "inverse", "sigmoid"],
    )
    position: str = key(
        "ray",
        "ray: x and y are computed from the centre and the depth; regressed: the head offset learns x and y, "
        "in units of 10 m",
        enum=["ray", "regressed"],
    )
    radius: float = key(
        0.3, "σ of a heat-map peak, a fraction of the car's height in cells", exclusiveMinimum=0, maximum=2
    )
    # Losses
    heatmap_loss: str = key("focal", "loss of the heat map", enum=["focal", "bce"])
    loss_weights: dict[str, float] = key(
        {},
        "weights of the heads' losses; default: "
        + ", ".join(f"{name} {entry.loss_weight:g}" for name, entry in HEADS.items()),
        properties={name: {"minimum": 0} for name in HEADS},
    )
    # Optimisation
    epochs: int = key(30, "number of epochs; each has as many samples as there are labelled photos", 1, 1000)
    batch_size: int = key(8, "photos per step", 1, 512)
    optimizer: str = key(
        "adamw",
        "optimiser; muon is that of carpose.train.muon, the others are of timm",
        enum=[
            *("muon", "adamw", "adam", "nadamw", "radam", "adan"),
            *("adopt", "lamb", "lion", "sgd", "rmsprop", "madgrad"),
        ],
    )
    schedule: str = key(
        "cosine",
        "decay of the learning rate after the warm-up (schedules of timm)",
        enum=["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"],
    )
    lr: float = key(5e-4, "peak learning rate", 1e-6, 1)
    lr_scaling: str = key(
        "none", "how lr is scaled with batch_size / lr_batch_size", enum=["none", "sqrt", "linear"]
    )
    lr_batch_size: int = key(8, "the batch size that lr is meant for, see lr_scaling", 1, 65536)
    weight_decay: float = key(1e-2, "weight decay", 0, 1)
    warmup: float = key(0.05, "share of the steps in which the learning rate rises to its peak", 0, 1)
    clip_norm: float = key(10.0, "gradients are clipped to this norm", exclusiveMinimum=0)
    ema_decay: float = key(
        0.998,
        "decay of the moving average of the network weights (after a warm-up); it is a training's result",
        0,
        1,
    )
    on_nan: str = key(
        "stop",
        "if a loss is not finite: stop, or roll back to the last state and halve the learning rate",
        enum=["stop", "rollback"],
    )
    # Valid only under `retrain:`, since they concern pseudo labels and the round before
    start: str = key(
        "warm",
        "initial network weights; warm: those of the round before; scratch: as in the first round",
        retrain_only=True,
        enum=["warm", "scratch"],
    )
    pseudo_share: float = key(
        0.5, "share of the samples drawn from pseudo-labelled photos", 0, 1, retrain_only=True
    )
    pseudo_augment_scale: float = key(
        1.0, "factor on the augmentation of pseudo-labelled photos", 0, 5, retrain_only=True
    )
    # Computing
    amp: str = key("auto", "number format of the forward pass", enum=["auto", "off", "bf16", "fp16"])
    threads: int = key(
        1,
        "torch threads on the CPU; rounding depends on it, so another number trains again "
        "(`resources.*.threads`: shares of --cores)",
        1,
        64,
    )
    seed: int = key(0, "seed of the initial weights, the order of samples and the augmentation", 0)
    revision: int = key(0, "increase it to train again without another change", 0)

    def digest(self) -> str:
        """A hash of all fields: 16 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def loss_weight_of(self, head: str) -> float:
        """The weight of a head's loss in the sum of losses."""
        return self.loss_weights.get(head, HEADS[head].loss_weight)
