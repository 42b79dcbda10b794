"""The sections of the configuration other than the training configuration, with their keys."""

from dataclasses import dataclass

from .keys import END, key
from .train_config import CROP

RUN_NAME = "[A-Za-z0-9_-][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class Demo:
    """The rendered data, used where data_root is empty."""

    train_images: int = key(800, "photos with labels", 4, 10000)
    test_images: int = key(160, "photos to predict", 2, 10000)
    seed: int = key(1, "seed of the scenes", 0)
    scale: float = key(0.25, "size of the photos, as a fraction of the real 3384×2710 pixels", 0.05, 1)
    max_distance: float = key(80.0, "metres; cars farther away are left out", 5, 5000)
    poses_from: str = key("", "a train.csv whose poses are rendered instead of sampled ones")
    car_models: str = key("", "a folder of car_models_json to render instead of parametric cars")
    car_model_ids: str = key("", "the table model_type,name that goes with car_models")


@dataclass(frozen=True)
class Exclude:
    """What is left out of training and validation, and why."""

    images: dict[str, str] = key({}, "images to leave out, ImageId: reason")
    max_depth: float = key(5000.0, "metres; labels with a larger z are left out", 1, 5000)
    max_depth_reason: str = key("beyond the configured depth", "the reason for max_depth, for the report")
    max_photos: int = key(
        0, "use only this many photos of each table, the first ones, and read no others; 0: all", 0
    )


@dataclass(frozen=True)
class Folds:
    """How the training photos are divided."""

    count: int = key(5, "number of folds", 2, 20)
    hash_distance: int = key(
        6, "photos whose hashes differ in at most this many of 64 bits share a fold", 0, 32
    )
    seed: int = key(0, "seed of the division", 0)


@dataclass(frozen=True)
class Cache:
    """The picture cache: photos are decoded, cropped and scaled once."""

    crop: list[float] = key(
        [0.0, 0.4, 1.0, 1.0],
        "left top right bottom, with left < right and top < bottom, fractions of the photo; kept for all "
        "models, so it must hold what the `crop` of each training shows of the photo",
        **CROP,
    )
    scale: float = key(0.5, "cache pixels per photo pixel", 0.05, 1)


@dataclass(frozen=True)
class Running:
    """How trainings and predictions run. These keys change no result; changing them runs no job again."""

    validate_every: int = key(
        1, "epochs between measurements of metric and validation losses; 0: after the last epoch only", 0
    )
    save_minutes: float = key(10.0, "minutes between saved states within an epoch", 0)
    stop_after_minutes: float = key(
        0.0,
        "minutes after which all trainings save their state and the run stops, to be continued; 0: never",
        0,
    )
    workers: int = key(0, "processes that prepare samples, per training", 0, 256)
    tensorboard: bool = key(False, "write TensorBoard events to the folder tensorboard of the run")
    cuda_graphs: bool = key(True, "on a GPU, launch the operations of a step together, as a CUDA graph")


@dataclass(frozen=True)
class Predict:
    """How the trained networks are applied."""

    threshold: float = key(0.05, "cars of a view with a lower score are dropped", 0, 1)
    batch_size: int = key(8, "photos per forward pass", 1, 512)
    max_cars: int = key(64, "cars of a view of a photo; of more, those of the highest scores", 1, 10000)
    flip: bool = key(
        False,
        "test-time view: average the outputs with those of the mirror image; takes twice the time "
        "(a training's `flip` is a probability)",
    )
    tta_rotations_deg: list[list[float]] = key(
        [],
        "test-time views to fuse, each pan, tilt, roll of the camera in degrees; empty: one, not rotated",
        items={"items": {"minimum": -10, "maximum": 10}, "minItems": 3, "maxItems": 3},
    )
    mask_filter: bool = key(False, "drop cars whose centre lies in the photo's mask")
    runtime: str = key(
        "torch",
        "library that runs the networks on a CPU; openvino must be installed (`resources` has time limits)",
        enum=["torch", "openvino"],
    )


@dataclass(frozen=True)
class Pseudo:
    """Which predicted cars of the test photos become labels."""

    mode: str = key(
        "soft",
        "sample weight of a pseudo label; soft: the probability that it is right; hard: 1",
        enum=["soft", "hard"],
    )
    precision_positive: float = key(
        0.8,
        "a precision, not a score: a pseudo label needs a score above the lowest threshold at which this "
        "share of the out-of-fold cars above it is right",
        0,
        1,
    )
    probability_ignore: float = key(
        0.2,
        "cars less probable than this are background; the loss ignores the region of cars in between",
        0,
        1,
    )


@dataclass(frozen=True)
class Fuse:
    """How the predictions of all models and rounds are fused."""

    mode: str = key(
        "given",
        "metric to fit the fusion for: given, the mAP script that participants shared, which ranks cars by "
        "score; leaderboard, the leaderboard's own, which ignores scores",
        enum=["given", "leaderboard"],
    )
    rounds: str = key(
        "all",
        "rounds to fuse, all or a list such as [0, 1] with each round once",
        anyOf=[
            {"const": "all"},
            {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"type": "integer", "minimum": 0},
            },
        ],
    )


@dataclass(frozen=True)
class Stage:
    """What a job of a stage requests. The second attempt gets twice the memory and time, and so on."""

    threads: int = key(1, "a job's share of --cores (torch's threads: `threads` of a training)", 1, 256)
    mem_mb: int = key(2000, "memory in MB", 100)
    runtime: int = key(30, "time limit in minutes, on a cluster (`predict.runtime` is a library)", 1)


@dataclass(frozen=True)
class Resources:
    """What jobs request."""

    train: Stage = key({}, "a training")
    predict: Stage = key({}, "a prediction")
    small: Stage = key({}, "every other job")


@dataclass(frozen=True)
class Hardware:
    """Keys beside TrainConfig: they change results only by rounding."""

    gpus: int = key(1, "GPUs that share every batch of a training; 0, or without a GPU: the CPU", 0, 64)


@dataclass(frozen=True)
class Run:
    """Keys outside of any section."""

    run: str = key(
        "demo",
        "name of the run and of its folder in results: letters, digits, _, - and dots, no dot first",
        pattern=f"^{RUN_NAME}{END}",
    )
    data_root: str = key("", "folder of the competition's data; empty: demo data are rendered")
    data_from: str = key(
        "",
        "name of another run whose data, check, folds and cache are used; settings of these must be the same",
        pattern=f"^({RUN_NAME})?{END}",
    )
    start_from: str = key(
        "",
        "name of a finished run on the same data whose networks, those of its last round, are trained on",
        pattern=f"^({RUN_NAME})?{END}",
    )
    rounds: int = key(
        2, "number of rounds; round 0 learns from labels, round r also from pseudo labels of round r−1", 1, 9
    )


SECTIONS = {
    "demo": Demo,
    "exclude": Exclude,
    "folds": Folds,
    "cache": Cache,
    "running": Running,
    "predict": Predict,
    "pseudo": Pseudo,
    "fuse": Fuse,
    "resources": Resources,
}
