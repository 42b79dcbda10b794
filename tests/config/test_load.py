"""YAML files and the command line → one configuration → the TrainConfig of each training."""

import argparse
import copy
import json

import pytest
import yaml

from carpose.config.check import check
from carpose.config.load import (
    check_data_from,
    models_of,
    parsed,
    refuse_duplicate_keys,
    start_round,
    train_settings,
    with_models,
)
from carpose.config.options import add_options, command_line, from_options
from carpose.config.page import RUNS, page_text, run_config, schema_text
from carpose.config.sections import SECTIONS, Exclude, Predict
from carpose.config.train_config import TrainConfig
from carpose.core.errors import UserError
from tests.helpers import REPOSITORY


@pytest.fixture
def config():
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def test_a_file_replaces_the_models_and_the_command_line_changes_them(config):
    files = [REPOSITORY / "config.yaml", REPOSITORY / "configs" / "pku.yaml"]
    real = yaml.safe_load(files[1].read_text())
    merged = with_models(config, files, {"models": {"dla34": {"epochs": "3"}, "hourglass": None}})
    assert merged["models"]["efficientnet"] == real["models"]["efficientnet"]  # no key of the demo's model
    assert merged["models"]["dla34"] == {**real["models"]["dla34"], "epochs": "3"}
    assert models_of(merged) == ["efficientnet", "dla34"]
    without = REPOSITORY / "configs" / "real_poses.yaml"
    assert with_models(config, [files[0], without], {})["models"] == config["models"]
    assert with_models(config, files[:1], {"models": {"small": {"backbone": "dla34"}}})["models"]["small"]


@pytest.mark.parametrize(
    "models, message",
    [
        (
            {"hourglas": {"epochs": 3}},
            "models.hourglas: unknown model; did you mean hourglass\\?; a new model needs",
        ),
        ({"dla": None}, "models.dla: unknown model; did you mean dla34\\?"),
        (
            {"xyz": {}},
            "models.xyz: unknown model; use one of efficientnet, dla34, hourglass; a new model needs its",
        ),
    ],
)
def test_an_unknown_model_on_the_command_line_is_an_error(config, models, message):
    with pytest.raises(UserError, match=message):
        with_models(config, [REPOSITORY / "config.yaml"], {"models": models})


def test_later_rounds_are_laid_over_the_first(config):
    config["models"]["hourglass"] |= {"epochs": 14, "lr": 0.02, "retrain": {"epochs": 2}, "gpus": 1}
    first, later = (train_settings(config, "hourglass", round_) for round_ in (0, 1))
    assert (first["epochs"], first["lr"]) == (14, 0.02) and "pseudo_share" not in first
    assert (later["epochs"], later["lr"], later["pseudo_share"]) == (2, 0.004, 0.2)
    assert (
        train_settings(config, "dla34", 1)["epochs"] == 1
        and train_settings(config, "dla34", 3)["epochs"] == 1
    )
    assert "gpus" not in first and "retrain" not in later
    TrainConfig(**first), TrainConfig(**later)


def test_loss_weights_are_merged_key_by_key(config):
    config["train"]["loss_weights"] = {"depth": 1.0}
    config["models"]["dla34"]["loss_weights"] = {"rotation": 10}
    train_config = TrainConfig(**train_settings(config, "dla34"))
    weights = [
        train_config.loss_weight_of(head) for head in ("heatmap", "offset", "depth", "height", "rotation")
    ]
    assert weights == [2.0, 4.0, 1.0, 0.7, 10]


def options_of(section, values):
    """The section after a round trip through the shell's words and argparse."""
    import shlex

    parser = argparse.ArgumentParser()
    add_options(parser, section)
    return from_options(parser.parse_args(shlex.split(command_line(section, values))), section)


def test_a_train_config_survives_the_command_line(config):
    settings = train_settings(config, "hourglass", 1) | {
        **{"mask_channel": True, "neck": "", "lr": 1e-5, "crop": [-1e-5, 0.5, 1.0, 1.0], "heads": []},
        **{"loss_weights": {"depth": 1e-7, "rotation": 3.0}, "pretrained": "hub"},
    }
    train_config = options_of(TrainConfig, settings)
    assert train_config == TrainConfig(**copy.deepcopy(settings))
    assert train_config.digest() != TrainConfig().digest()


def test_rows_names_and_switches_survive_the_command_line():
    views = {"tta_rotations_deg": [[0, 0.5, 0], [0, -0.5, 0]], "flip": True, "mask_filter": False}
    assert options_of(Predict, views) == Predict(**views)
    assert options_of(Predict, {"tta_rotations_deg": []}) == Predict()
    reasons = {"images": {"ID_1": "broken, 'quoted' {x} = 1", "ID_2": "x"}, "max_depth": 200.0}
    assert options_of(Exclude, reasons) == Exclude(**reasons)


def test_equal_settings_give_equal_text():
    """Snakemake compares the text."""
    for one, other in (
        ({"rotate_deg": [2, 1, 1], "lr": 1}, {"lr": 1.0, "rotate_deg": [2.0, 1.0, 1.0]}),
        ({"loss_weights": {"depth": 1, "rotation": 2}}, {"loss_weights": {"rotation": 2.0, "depth": 1.0}}),
        ({"revision": 0, "heads": []}, {}),
    ):
        assert command_line(TrainConfig, one) == command_line(TrainConfig, other)
    assert options_of(Exclude, {"max_depth_reason": "-far"}).max_depth_reason == "-far"


def test_options_out_of_range_name_the_key():
    with pytest.raises(UserError, match="threshold: invalid value 2.0; it must be at most 1"):
        options_of(Predict, {"threshold": 2.0})


@pytest.mark.parametrize("value", [-1e-5, 1e-5, -1.5, 3.0e-7, 1e20, 0.1, 2])
def test_numbers_on_the_command_line_are_not_read_as_options(value):
    parser = argparse.ArgumentParser()
    parser.add_argument("--crop", type=float, nargs=2)
    assert parser.parse_args(command_line(TrainConfig, {"crop": [value, value]}).split()).crop == [
        value,
        value,
    ]


def test_numbers_given_as_strings_inside_braces_are_numbers(config):
    """Snakemake's --config 'train={"epochs": 8}' hands over strings."""
    config["train"] |= {"epochs": "8", "lr": "1e-3", "mask_channel": "true", "crop": ["0", "0.5", "1", "0.9"]}
    config["train"]["loss_weights"] = {"depth": "2"}
    config["models"]["dla34"] |= {"width": "0.5", "retrain": {"epochs": "3"}}
    config["fuse"]["rounds"] = ["0", "1"]
    converted = parsed(config)
    check(converted)
    train, dla34 = converted["train"], converted["models"]["dla34"]
    assert converted["fuse"]["rounds"] == [0, 1] and train["loss_weights"] == {"depth": 2}
    assert train["epochs"] == 8 and train["crop"] == [0, 0.5, 1, 0.9]
    assert train["mask_channel"] is True
    assert dla34["width"] == 0.5 and dla34["retrain"]["epochs"] == 3
    assert converted["run"] == "demo"
    for text in ("nan", "inf", "["):
        with pytest.raises(UserError, match="train.lr: invalid value .*; it must be"):
            check(parsed(config | {"train": config["train"] | {"lr": text}}))


def test_off_is_a_number_format_although_yaml_reads_false(config):
    config["train"] |= yaml.safe_load("amp: off")
    assert parsed(config)["train"]["amp"] == "off"


def test_the_schema_file_and_the_page_are_up_to_date():
    """`python -m carpose.config` writes them."""
    assert (REPOSITORY / "workflow" / "schemas" / "config.schema.json").read_text() == schema_text()
    assert (REPOSITORY / "docs" / "configuration.md").read_text() == page_text()
    json.loads(schema_text())


def test_the_page_shows_what_a_run_with_pku_has():
    demo, pku = (run_config(files) for files in RUNS)
    assert pku["folds"]["count"] == 5 and pku["predict"]["flip"] is True  # of pku.yaml, and inherited
    assert pku["models"]["hourglass"] == {"backbone": "hourglass", "width": 0.5, "batch_size": 4}
    section, shown = "", {}
    for line in page_text().splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if line.startswith("| `"):
            name, _, _, *runs, _ = (cell.strip() for cell in line.removesuffix("|")[1:].split("| "))
            shown[section, name.strip("`")] = runs
    assert shown["folds", "count"] == ["`2`", ""]  # the default is 5
    assert shown["fuse", "mode"] == ["", '`"leaderboard"`']
    assert shown["resources", "threads"][1] == "train: `5`; predict: `5`; small: `2`"
    training = "train, retrain, models"
    assert shown[training, "input_width"] == ["`384`; efficientnet: `192`; dla34: `192`", ""]
    assert shown[training, "batch_size"] == ["`4`", "hourglass: `4`"]
    epochs = ["`2`; retrain: `1`; hourglass: `26`; hourglass.retrain: `2`", "retrain: `15`"]
    assert shown[training, "epochs"] == epochs
    assert train_settings(demo, "hourglass", 1)["epochs"] == 2  # the last of them
    for column, config in enumerate((demo, pku)):
        for name in ("demo", "exclude", "folds", "cache", "running", "predict", "pseudo", "fuse"):
            defaults = SECTIONS[name]()
            for key, value in config[name].items():
                assert bool(shown[name, key][column]) == (value != getattr(defaults, key)), (name, key)


def test_a_training_has_at_most_fifty_keys():
    assert len(json.loads(schema_text())["$defs"]["model"]["properties"]) <= 50


def test_duplicate_keys_on_the_command_line_are_refused():
    refuse_duplicate_keys(
        ["data_root=/a: b: {", "rounds=1", 'train={"lr": 1, "loss_weights": {"lr": 2}}', "x"]
    )
    with pytest.raises(UserError, match="--config models, line 1: the key dla34 occurs twice"):
        refuse_duplicate_keys(["rounds=1", 'models={"dla34": {"lr": 1}, "dla34": {"width": 1}}'])


def test_a_run_uses_the_data_of_another(tmp_path):
    other = tmp_path / "config.json"
    config = {"run": "b", "data_from": "a", "data_root": "", "demo": {"seed": 1}, "folds": {"count": 2}}
    with pytest.raises(UserError, match=r"data_from: there is no run a \(.*config.json is missing\)"):
        check_data_from(config, other)
    other.write_text(json.dumps({**config, "run": "a", "data_from": "", "rounds": 3}))
    check_data_from(config, other)
    for changed in ({"folds": {"count": 3}}, {"demo": {"seed": 2}}, {"data_root": "/data"}):
        with pytest.raises(UserError, match=f"^{next(iter(changed))}: differ from those of the run a"):
            check_data_from(config | changed, other)
    other.write_text(json.dumps({**config, "run": "a", "data_from": "first"}))
    with pytest.raises(UserError, match="the run a has its data from first; set data_from: first"):
        check_data_from(config, other)
    with pytest.raises(UserError, match="data_from: is this run itself"):
        check_data_from(config | {"run": "a"}, other)


def test_a_run_starts_with_the_networks_of_another(tmp_path):
    other = tmp_path / "config.json"
    config = {"run": "b", "data_from": "a", "start_from": "a", "models": {"dla34": {}, "hourglass": None}}
    with pytest.raises(UserError, match=r"start_from: there is no run a \(.*config.json is missing\)"):
        start_round(config, other)
    theirs = {"run": "a", "data_from": "", "rounds": 3, "models": {"dla34": {}}}
    other.write_text(json.dumps(theirs))
    assert start_round(config, other) == 2
    for changed, message in (
        ({"data_from": ""}, "the run a has folds of its own; set data_from: a"),
        ({"models": {"other": {}}}, "the run a has no model called other"),
        ({"run": "a"}, "is this run itself"),
    ):
        with pytest.raises(UserError, match=f"^start_from: {message}"):
            start_round(config | changed, other)
    other.write_text(json.dumps(theirs | {"data_from": "c"}))
    with pytest.raises(UserError, match="set data_from: c"):
        start_round(config, other)
    assert start_round(config | {"data_from": "c"}, other) == 2
