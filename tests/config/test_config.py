"""The configuration is refused before anything runs, naming the key and what would be right."""

import copy
import math
import re
from dataclasses import fields

import pytest
import yaml
from conftest import REPOSITORY

from carpose import UserError, study
from carpose.config import SCHEMA, check, parsed
from carpose.recipe import Recipe, add_options, command_line, from_options, plain


@pytest.fixture
def config():
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def merged(base, overlay):
    for key, value in overlay.items():
        base[key] = merged(base.get(key, {}), value) if isinstance(value, dict) else value
    return base


def test_nothing_of_the_demo_s_recipe_reaches_the_real_data(config):
    """A file laid over config.yaml inherits what it does not name: small networks, a few epochs."""
    real = yaml.safe_load((REPOSITORY / "configs" / "pku.yaml").read_text())
    assert set(config["train"]) <= set(real["train"])
    for name, recipe in config["models"].items():
        assert set(recipe) <= set(real["models"][name]), name


@pytest.mark.parametrize("overlay", ["ci", "pku", "real_poses"])
def test_shipped_configurations_are_valid(config, overlay):
    check(config)
    check(merged(config, yaml.safe_load((REPOSITORY / "configs" / f"{overlay}.yaml").read_text())))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("train.lr", "fast", "train.lr: 'fast' is not right; it must be of type number"),
        ("train.learning_rate", 1, "train.learning_rate: no such key"),
        ("train.epoch", 1, "did you mean epochs?"),
        ("train.input_width", 500, "train.input_width: 500 is not right; it must be a multiple of 32"),
        ("models.dla34.backbone", "resnet18", "'resnet18' is not right; use efficientnet_b0"),
        ("models.dla34.lrr", 1, "models.dla34.lrr: no such key; did you mean lr?"),
        ("folds.count", 1, "folds.count: 1 is not right; it must be at least 2"),
        ("fuse.mode", "best", "fuse.mode: 'best' is not right; use one of given, equal"),
        ("fuse.rounds", [0, 5], "fuse.rounds: there is no round 5"),
        ("rounds", "two", "rounds: 'two' is not right"),
        ("models.dla34.gpus", 3, "models.dla34: 3 GPUs cannot share batches of 4 photos equally"),
        ("data_rot", "x", "did you mean data_root?"),
        ("models", {"dla34": None}, "at least one model"),
        ("cache.crop", [0.5, 0.5, 0.2, 0.9], "cache.crop: [0.5, 0.5, 0.2, 0.9] is not right; use left top"),
        ("train.crop", [0, 0.9, 1, 0.9], "train.crop: [0, 0.9, 1, 0.9] is not right; use left top"),
        ("models.dla34.crop", [1, 0.5, 1, 0.9], "models.dla34.crop: [1, 0.5, 1, 0.9] is not right; use left"),
        ("train.crop", [0, 0.5, 1], "train.crop: [0, 0.5, 1] is not right; use left top right bottom"),
        ("train.crop", [0, "a", 1, 1], "train.crop.1: 'a' is not right; it must be of type number"),
        ("train.optimizer", "foo", "train.optimizer: 'foo' is not right; use one of muon, adamw"),
        (
            "models.dla34.optimizer",
            "sgd; ls",
            "models.dla34.optimizer: 'sgd; ls' is not right; use one of muon",
        ),
        ("train.lr", math.nan, "train.lr: nan is not right; it must be a finite number"),
        ("models.dla34.lr", math.nan, "models.dla34.lr: nan is not right; it must be a finite number"),
        ("train.heatmap_weight", math.inf, "train.heatmap_weight: inf is not right; it must be a finite"),
        ("train.crop", [0, math.nan, 1, 1], "train.crop.1: nan is not right; it must be a finite number"),
        ("rounds", math.nan, "rounds: nan is not right; it must be of type integer"),
        ("train.pretrained", "no.pth", "train.pretrained: 'no.pth' is not right; use none, hub, or the path"),
        ("models.dla34.pretrained", "/", "models.dla34.pretrained: '/' is not right; use none, hub, or"),
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
        ("rounds", 2.0, "rounds: 2.0 is not right; it must be of type integer"),
        ("rounds", True, "rounds: True is not right; it must be of type integer"),
        ("pseudo.precision_positive", 0.1, "pseudo.precision_positive: 0.1 is below precision_ignore, 0.2"),
        ("run", "..", "run: '..' is not right; use a name of letters"),
        ("run", ".", "run: '.' is not right; use a name of letters"),
        ("run", "a/b", "run: 'a/b' is not right; use a name of letters"),
        ("run", 123, 'run: 123 is not right; it must be text, in quotes in a file: "123"; --config ignores'),
        ("fuse", 5, "fuse: 5 is not right; it must be of type object"),
        ("models", 5, "models: 5 is not right; it must be of type object"),
        ("exclude.images", {"a": 1}, "exclude.images.a: 1 is not right; it must be text, in quotes in a"),
        ("fuse.rounds", [], "fuse.rounds: [] is not right; use all, or a list such as [0, 1]"),
        ("fuse.rounds", [0, "x"], "fuse.rounds.1: 'x' is not right; it must be of type integer"),
        ("models.hourglass", 5, "models.hourglass: 5 is not right; use keys of a recipe, such as {backbone:"),
        ("fuse.rounds", [0, 0], "fuse.rounds: [0, 0] is not right; use all, or a list such as [0, 1], each"),
        (
            "models.dla34.crop",
            [0, 0.4, 1, 0.9],
            "models: the crop of dla34, [0, 0.4, 1, 0.9], shows what cache.crop, [-0.02, 0.5, 1.02, 0.92],",
        ),
        ("models.dla34.crop", [-0.5, 0.5, 1.0, 0.95], "leaves out of the photos; widen cache.crop"),
        (
            "cache.crop",
            [0.3, 0.5, 0.6, 0.9],
            "models: the crop of efficientnet, dla34, hourglass, [0.0, 0.592",
        ),
        ("models.a b", {}, "models: 'a b' is not right; use names of letters, digits, _ and -"),
    ],
)
def test_errors_name_the_key_and_what_is_right(config, path, value, message):
    *parents, key = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[key] = value
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check(config)
    assert len(str(error.value).splitlines()) == 2  # said once


def test_what_a_recipe_may_name(config, tmp_path):
    (tmp_path / "w.pth").touch()
    config["models"]["dla34"]["width"] = 1.0
    for source in ("none", "hub", str(tmp_path / "w.pth")):
        config["models"]["dla34"]["pretrained"] = source
        check(config)
    config["pseudo"]["precision_ignore"] = config["pseudo"]["precision_positive"]
    check(config | {"run": "1.a_b-c"})


def test_optimisers_of_the_schema_train():
    import torch

    from carpose.optim import make_optimizer

    names = yaml.safe_load(SCHEMA.read_text())["$defs"]["recipe"]["properties"]["optimizer"]["enum"]
    for name in names:
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1))
        optimizer = make_optimizer(model, Recipe(optimizer=name), 0.1)
        before = model[0].weight.detach().clone()
        for _ in range(2):  # some only measure in the first step
            optimizer.zero_grad()
            model(torch.ones(1, 3, 4, 4)).square().mean().backward()
            optimizer.step()
        assert not torch.equal(before, model[0].weight) and model[0].weight.isfinite().all(), name


def test_studies_are_named_in_a_list():
    with pytest.raises(UserError, match=r"studies: 'lr' is not right; use all, or a list such as \[lr"):
        study.settings({"studies": "lr"})


def test_a_runtime_that_is_not_there_is_missed_before_the_trainings(config, monkeypatch):
    config["predict"]["runtime"] = "openvino"
    monkeypatch.setattr("carpose.config.find_spec", lambda name: name == "openvino")
    check(config)
    monkeypatch.setattr("carpose.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match="predict.runtime: OpenVINO is not installed; `pip install openvino`"):
        check(config)


def test_schema_and_recipe_know_the_same_keys():
    schema = yaml.safe_load(SCHEMA.read_text())
    keys = {item.name for item in fields(Recipe)} | {"gpus"}  # how many share a training is no recipe
    properties = schema["$defs"]["recipe"]["properties"]
    assert set(properties) == keys
    choices = {item.name: item.metadata["choices"] for item in fields(Recipe)}
    enums = {name: own.get("enum") for name, own in properties.items() if name != "gpus"}
    assert enums | {"neck": None} == choices, "neck has its choices from models.necks"


def test_a_view_may_show_what_lies_beyond_the_photo(config):
    config["models"]["dla34"]["crop"] = [-0.5, 0.5, 1.5, 0.92]
    check(config)


def test_only_maps_of_one_grid_are_averaged(config):
    config["fuse"]["average_maps"] = True
    check(config)
    config["models"]["dla34"]["input_width"] = 512
    with pytest.raises(UserError, match=r"average_maps: input_width is 512 in models.dla34, 384 in models.e"):
        check(config)


def test_no_model_has_no_grid(config):
    config["fuse"]["average_maps"] = True
    config["models"] = {"dla34": None}
    with pytest.raises(UserError, match="models: at least one model is needed"):
        check(config)


def test_keys_that_yaml_reads_as_no_text_are_named(config):
    config["models"] |= {5: None, False: {1: 2}}
    config[7] = config["rouds"] = 3
    with pytest.raises(UserError) as error:
        check(config)
    lines = [f"  {key}: keys must be text; put it in quotes" for key in ("7", "models.5", "models.False")]
    assert set(lines) < set(str(error.value).split("\n"))


@pytest.mark.parametrize("value", [-1e-5, 1e-5, -1.5, 3.0e-7, 1e20, 0.1, 2])
def test_numbers_on_the_command_line_are_no_options(value):
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--x", type=float, nargs=2)
    text = str(plain(value))
    assert parser.parse_args(["--x", text, text]).x == [value, value]


def test_recipe_survives_the_command_line(config):
    import argparse

    parser = argparse.ArgumentParser()
    add_options(parser)
    settings = {**config["train"], **config["models"]["hourglass"], "mask_channel": True, "neck": ""}
    del settings["gpus"]
    words = [word.strip("'") for word in command_line(settings).split(" ")]
    recipe = from_options(parser.parse_args(words))
    assert recipe == Recipe(**copy.deepcopy(settings))
    assert recipe.digest() != Recipe().digest()


def test_numbers_given_as_strings_inside_braces_are_numbers(config):
    """Snakemake's --config 'train={"epochs": 8}' hands over strings."""
    config["train"] |= {"epochs": "8", "lr": "1e-3", "coordinates": "true", "crop": ["0", "0.5", "1", "0.9"]}
    config["models"]["dla34"] |= {"width": "0.5"}
    config["fuse"]["rounds"] = ["0", "1"]
    found = parsed(config)
    check(found)
    assert found["fuse"]["rounds"] == [0, 1]
    assert found["train"]["epochs"] == 8 and found["train"]["crop"] == [0, 0.5, 1, 0.9]
    assert found["train"]["coordinates"] is True and found["models"]["dla34"]["width"] == 0.5
    assert found["run"] == "demo"
    for text in ("nan", "inf", "["):
        with pytest.raises(UserError, match="train.lr: .* is not right; it must be"):
            check(parsed(config | {"train": config["train"] | {"lr": text}}))
