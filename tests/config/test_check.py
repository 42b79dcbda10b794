"""An invalid configuration is an error before anything runs. It names the key and what is valid."""

import math
import re

import pytest
import yaml

from carpose.config import check as check_module
from carpose.config.check import check
from carpose.config.load import laid_over, with_models
from carpose.core.errors import UserError
from tests.helpers import REPOSITORY


@pytest.fixture
def config():
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def test_pku_inherits_no_training_setting_of_the_demo(config):
    """A file laid over config.yaml inherits each key that it does not name, such as the demo's few epochs."""
    real = yaml.safe_load((REPOSITORY / "configs" / "pku.yaml").read_text())
    assert set(config["train"]) <= set(real["train"]) and set(config["retrain"]) <= set(real["retrain"])
    assert real["models"]  # replaces all models of config.yaml, see carpose.config.load


@pytest.mark.parametrize("overlay", ["ci", "pku", "real_poses", "tiny"])
def test_shipped_configurations_are_valid(config, overlay):
    check(config)
    files = [REPOSITORY / "config.yaml", REPOSITORY / "configs" / f"{overlay}.yaml"]
    check(with_models(laid_over(config, yaml.safe_load(files[1].read_text())), files, {}))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("train.lr", "fast", "train.lr: invalid value 'fast'; it must be of type number"),
        ("train.learning_rate", 1, "train.learning_rate: unknown key"),
        ("train.epoch", 1, "did you mean epochs?"),
        (
            "train.input_width",
            500,
            "train.input_width: invalid value 500; expected: pixels, a multiple of 32",
        ),
        ("models.dla34.backbone", "resnet18", "invalid value 'resnet18'; expected: efficientnet_b0"),
        (
            "models.dla34.backbone",
            "timm:resnet18",
            "models.dla34.width: timm:resnet18 has only width 1; set width: 1",
        ),
        ("models.dla34.lrr", 1, "models.dla34.lrr: unknown key; did you mean lr?"),
        ("folds.count", 1, "folds.count: invalid value 1; it must be at least 2"),
        ("fuse.mode", "best", "fuse.mode: invalid value 'best'; use one of given, leaderboard"),
        ("fuse.rounds", [0, 5], "fuse.rounds: there is no round 5"),
        ("rounds", "two", "rounds: invalid value 'two'"),
        ("models.dla34.gpus", 3, "models.dla34: 3 GPUs cannot share batches of 4 photos equally"),
        ("data_rot", "x", "did you mean data_root?"),
        ("models", {"dla34": None}, "at least one model"),
        (
            "cache.crop",
            [0.5, 0.5, 0.2, 0.9],
            "cache.crop: invalid value [0.5, 0.5, 0.2, 0.9]; expected: left top",
        ),
        ("train.crop", [0, 0.9, 1, 0.9], "train.crop: invalid value [0, 0.9, 1, 0.9]; expected: left top"),
        (
            "models.dla34.crop",
            [1, 0.5, 1, 0.9],
            "models.dla34.crop: invalid value [1, 0.5, 1, 0.9]; expected: left",
        ),
        ("train.crop", [0, 0.5, 1], "train.crop: invalid value [0, 0.5, 1]; expected: left top right bottom"),
        ("train.crop", [0, "a", 1, 1], "train.crop.1: invalid value 'a'; it must be of type number"),
        ("train.optimizer", "foo", "train.optimizer: invalid value 'foo'; use one of muon, adamw"),
        (
            "models.dla34.optimizer",
            "sgd; ls",
            "models.dla34.optimizer: invalid value 'sgd; ls'; use one of muon",
        ),
        ("train.lr", math.nan, "train.lr: invalid value nan; it must be a finite number"),
        ("models.dla34.lr", math.nan, "models.dla34.lr: invalid value nan; it must be a finite number"),
        (
            "train.loss_weights",
            {"depth": math.inf},
            "train.loss_weights.depth: invalid value inf; it must be a f",
        ),
        ("train.loss_weights", {"dept": 1}, "train.loss_weights.dept: unknown key; did you mean depth?"),
        ("train.heads", ["heigth"], "train.heads.0: invalid value 'heigth'; use one of height"),
        ("train.crop", [0, math.nan, 1, 1], "train.crop.1: invalid value nan; it must be a finite number"),
        ("rounds", math.nan, "rounds: invalid value nan; it must be of type integer"),
        (
            "train.pretrained",
            "no.pth",
            "train.pretrained: invalid value 'no.pth'; expected: none, hub, or the path",
        ),
        (
            "models.dla34.pretrained",
            "/",
            "models.dla34.pretrained: invalid value '/'; expected: none, hub, or",
        ),
        (
            "models.hourglass.pretrained",
            "hub",
            "models.hourglass.pretrained: the hub has no weights of hourglass at",
        ),
        (
            "models.dla34.pretrained",
            "hub",
            "models.dla34.pretrained: the hub has no weights of dla34 at width 0.25",
        ),
        ("rounds", 2.0, "rounds: invalid value 2.0; it must be of type integer"),
        ("rounds", True, "rounds: invalid value True; it must be of type integer"),
        ("pseudo.precision_positive", 0.1, "pseudo.precision_positive: 0.1 is below probability_ignore, 0.2"),
        ("run", "..", "run: invalid value '..'; expected: name of the run and of its"),
        ("run", ".", "run: invalid value '.'; expected: name of the run"),
        ("run", "a/b", "run: invalid value 'a/b'; expected: name of the run"),
        ("run", 123, 'run: invalid value 123; it must be text, in quotes in a file: "123"; --config ignores'),
        ("fuse", 5, "fuse: invalid value 5; it must be of type object"),
        ("models", 5, "models: invalid value 5; it must be of type object"),
        ("exclude.images", {"a": 1}, "exclude.images.a: invalid value 1; it must be text, in quotes in a"),
        (
            "fuse.rounds",
            [],
            "fuse.rounds: invalid value []; expected: rounds to fuse, all or a list such as [0, 1]",
        ),
        ("fuse.rounds", [0, "x"], "fuse.rounds.1: invalid value 'x'; it must be of type integer"),
        (
            "models.hourglass",
            5,
            "models.hourglass: invalid value 5; expected: keys of a training, such as {backbone:",
        ),
        (
            "fuse.rounds",
            [0, 0],
            "fuse.rounds: invalid value [0, 0]; expected: rounds to fuse, all or a list such as [0, 1] with",
        ),
        (
            "models.dla34.crop",
            [0, 0.4, 1, 0.9],
            "models: the crop of dla34, [0, 0.4, 1, 0.9], shows parts of the photos outside cache.crop; wide",
        ),
        (
            "models.dla34.crop",
            [-0.5, 0.5, 1.0, 0.95],
            "; widen cache.crop, [-0.02, 0.5, 1.02, 0.92], to hold [0, 0.5, 1, 0.95]",
        ),
        (
            "cache.crop",
            [0.3, 0.5, 0.6, 0.9],
            "models: the crop of efficientnet, dla34, hourglass, [0.0, 0.592",
        ),
        ("models.a b", {}, "models: invalid value 'a b'; expected: names of letters, digits, _ and -"),
        (
            "models.new",
            {"width": 0.5},
            "models.new.backbone: is missing; name the network, such as backbone: dla34",
        ),
        (
            "retrain.heads",
            [],
            "retrain: heads of efficientnet, dla34, hourglass differs from the first round's",
        ),
        (
            "models.hourglass.retrain",
            {"width": 0.25},
            "retrain: width of hourglass differs from the first round's",
        ),
        (
            "models.hourglass.retrain",
            {"epoch": 1},
            "models.hourglass.retrain.epoch: unknown key; did you mean epochs?",
        ),
        ("train.pseudo_share", 0.2, "train.pseudo_share: unknown key; write it in the section retrain:"),
        ("train.retrain_lr", 0.2, "train.retrain_lr: unknown key; write lr in the section retrain:"),
        ("train.turns_deg", [], "train.turns_deg: unknown key; write tta_rotations_deg"),
        ("pseudo.precision_ignore", 0.2, "pseudo.precision_ignore: unknown key; write probability_ignore"),
        ("running.graphs", True, "running.graphs: unknown key; write cuda_graphs"),
        ("train.level_deg", 0, "train.level_deg: unknown key; it was removed (see docs/lab/studies.md"),
        ("fuse.hash_distance", 2, "fuse.hash_distance: unknown key; it was removed"),
    ],
)
def test_errors_name_the_key_and_what_is_valid(config, path, value, message):
    *parents, key = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[key] = value
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check(config)
    assert len(str(error.value).splitlines()) == 2  # one line per error


def test_valid_values_at_the_limits(config, tmp_path):
    (tmp_path / "w.pth").touch()
    config["models"]["dla34"]["width"] = 1.0
    for source in ("none", "hub", str(tmp_path / "w.pth")):
        config["models"]["dla34"]["pretrained"] = source
        check(config)
    config["pseudo"]["probability_ignore"] = config["pseudo"]["precision_positive"]
    check(config | {"run": "1.a_b-c"})


def test_a_missing_runtime_is_an_error_before_the_trainings(config, monkeypatch):
    config["predict"]["runtime"] = "openvino"
    monkeypatch.setattr(check_module, "find_spec", lambda name: name == "openvino")
    check(config)
    monkeypatch.setattr(check_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="predict.runtime: OpenVINO is not installed; `pip install openvino`"):
        check(config)


def test_a_view_may_reach_beyond_the_photo(config):
    config["models"]["dla34"]["crop"] = [-0.5, 0.5, 1.5, 0.92]
    check(config)


def test_the_cache_must_hold_what_a_warped_view_shows(config):
    """With perspective 0.5 the view's bottom shows 1.5 times the crop's width."""
    config["models"]["dla34"] |= {"crop": [0.3, 0.6, 0.7, 0.9], "perspective": 0.5}
    config["cache"]["crop"] = [0.0, 0.5, 1.0, 0.92]
    check(config)
    config["models"] = {"dla34": config["models"]["dla34"]}
    config["cache"]["crop"] = [0.2, 0.5, 0.8, 0.92]
    check(config)
    config["cache"]["crop"] = [0.25, 0.5, 0.8, 0.92]
    text = r"widen cache.crop, .*, to hold \[0.2, 0.6, 0.8, 0.9\], which the crop shows with perspective 0.5"
    with pytest.raises(UserError, match=text):
        check(config)


def test_keys_that_yaml_does_not_read_as_text_are_named(config):
    config["models"] |= {5: None, False: {1: 2}}
    config[7] = config["rouds"] = 3
    with pytest.raises(UserError) as error:
        check(config)
    lines = [f"  {key}: keys must be text; put it in quotes" for key in ("7", "models.5", "models.False")]
    assert set(lines) < set(str(error.value).split("\n"))


def test_only_a_warm_start_needs_the_same_network_in_both_rounds(config):
    config["retrain"] |= {"heads": [], "start": "scratch"}
    check(config)
    check(config | {"rounds": 1, "retrain": {"heads": []}})
