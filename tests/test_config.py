"""The configuration is refused before anything runs, naming the key and what would be right."""

import copy
from dataclasses import fields

import pytest
import yaml
from conftest import REPOSITORY

from carpose import UserError
from carpose.config import SCHEMA, check, parsed
from carpose.recipe import Recipe, add_options, command_line, from_options


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
        ("models.dla34.backbone", "resnet18", "'resnet18' is unknown; use efficientnet_b0"),
        ("models.dla34.lrr", 1, "models.dla34.lrr: no such key; did you mean lr?"),
        ("folds.count", 1, "folds.count: 1 is not right; it must be at least 2"),
        ("fuse.mode", "best", "fuse.mode: 'best' is not right; use one of given, equal"),
        ("fuse.rounds", [0, 5], "fuse.rounds: there is no round 5"),
        ("rounds", "two", "rounds: 'two' is not right"),
        ("models.dla34.gpus", 3, "models.dla34: 3 GPUs cannot share batches of 4 photos equally"),
        ("data_rot", "x", "did you mean data_root?"),
        ("models", {"dla34": None}, "at least one model"),
    ],
)
def test_errors_name_the_key_and_what_is_right(config, path, value, message):
    *parents, key = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[key] = value
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("?", r"\?")):
        check(config)


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
    assert set(schema["$defs"]["recipe"]["properties"]) == keys


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
    config["train"] |= {"epochs": "8", "lr": "1e-3", "coordinates": "true", "crop": ["0", "0.5", "1", "1"]}
    config["models"]["dla34"] |= {"width": "0.5"}
    found = parsed(config)
    check(found)
    assert found["train"]["epochs"] == 8 and found["train"]["crop"] == [0, 0.5, 1, 1]
    assert found["train"]["coordinates"] is True and found["models"]["dla34"]["width"] == 0.5
    assert found["run"] == "demo"
