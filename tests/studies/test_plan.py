"""Study files: what is refused, and the trainings that follow from them."""

import pytest
import yaml

from carpose.config.check import check
from carpose.config.load import laid_over
from carpose.core.errors import UserError
from carpose.studies import plan
from tests.helpers import REPOSITORY

SHIPPED = sorted((REPOSITORY / "configs" / "studies").glob("*.yaml"))
RADIUS = {"question": "How wide?", "base": "hourglass", "change": {"radius": 0.4}}


@pytest.fixture
def config():
    """config.yaml with configs/studies.yaml laid over it, as workflow/studies.smk has it."""
    main = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    return laid_over(main, yaml.safe_load((REPOSITORY / "configs" / "studies.yaml").read_text()))


def written(folder, content, name="mine"):
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return plan.read(path)


def test_shipped_studies_are_valid(config):
    settings = plan.settings(config)
    shipped = [plan.read(path) for path in SHIPPED]
    runs = {run.name: run for study in shipped for run in plan.runs(study, config).values()}
    assert len(shipped) >= 15
    rest = {key: value for key, value in config.items() if key not in settings}
    # What workflow/studies.smk makes of it: the runs' caches are their own.
    rest["cache"] = rest["cache"] | {"crop": [-1.0, -1.0, 2.0, 2.0]}
    check(rest | {"models": {name: run.train_config for name, run in runs.items()}})


def test_a_study_s_view_must_be_in_its_own_cache(config):
    study = plan.read(next(path for path in SHIPPED if path.stem == "padding"))
    study.variants["changed"].pop("cache.crop")
    with pytest.raises(UserError, match="study padding: changed shows what cache.crop leaves out"):
        plan.runs(study, config)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"question": None}, "question: .*None"),
        ({"base": ...}, "base is missing"),
        ({"chnage": {}}, "chnage: unknown key; did you mean change"),
        ({"change": {"radios": 0.1}}, "change.radios: unknown key; did you mean radius"),
        ({"change": {"radius": "wide"}}, "change.radius: .*'wide'.*must be of type number"),
        ({"change": {"predict": {"flp": True}}}, "change.predict.flp: unknown key; did you mean flip"),
        ({"change": {"yaw": "allocentric"}}, "change.yaw: unknown key; it was removed"),
        ({"change": {"start": "scratch"}}, "change.start: unknown key"),
        ({"change": ...}, "either change: .* or variants:"),
        ({"variants": {"a": {"lr": 0.1}}}, "either change: .* or variants:"),
        (
            {"change": {"radius": 0.4, "lr": 0.1}},
            "at once.*change one key, or say under together",
        ),
        ({"change": {"radius": 0.4, "predict": {"flip": False}}}, "predict.flip, radius change at once"),
        ({"together": "because"}, "together: only one key is changed"),
        ({"change": {"seed": 3}}, "seed: leave it out"),
    ],
)
def test_errors_name_the_file_the_key_and_the_remedy(tmp_path, change, message):
    content = {key: value for key, value in {**RADIUS, **change}.items() if value is not ...}
    with pytest.raises(UserError, match=f"(?s)mine.yaml: not a valid study.*{message}"):
        written(tmp_path, content)


@pytest.mark.parametrize("text", ["", "a question", "question: [", "- 1"])
def test_what_is_no_study_at_all(tmp_path, text):
    with pytest.raises(UserError, match=r"mine\.yaml"):
        written(tmp_path, text)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base": "resnet"}, "study mine: no base resnet; known are hourglass, plain"),
        ({"change": {"radius": 0.2}}, "study mine: radius is 0.2 in the base hourglass already"),
        ({"change": {"norm": "batch"}}, "norm is batch in the base"),
        ({"change": {"predict": {"flip": True}}}, "predict.flip is True in the base"),
    ],
)
def test_changes_that_change_nothing_and_unknown_bases(config, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        plan.runs(written(tmp_path, {**RADIUS, **change}), config)


def test_one_change_is_all_that_differs(config, tmp_path):
    runs = plan.runs(written(tmp_path, RADIUS), config)
    assert set(runs) == {(variant, seed) for variant in ("base", "changed") for seed in range(3)}
    base, changed = runs["base", 1], runs["changed", 1]
    assert changed.train_config == {**base.train_config, "radius": 0.4}
    assert base.train_config["seed"] == 1 and base.train_config["epochs"] == config["studies_epochs"]
    assert base.train_config["width"] == config["models"]["hourglass"]["width"]
    assert (changed.predict, changed.cache) == (base.predict, base.cache)
    assert (base.name, changed.name, changed.trained) == ("base-hourglass-seed1", "mine-changed-seed1") + (
        changed.name,
    )


def test_a_change_of_a_dictionary_keeps_what_it_does_not_name(config, tmp_path):
    config["train"]["loss_weights"] = {"depth": 0.5, "offset": 2.0}
    changed = written(tmp_path, {**RADIUS, "change": {"loss_weights": {"depth": 1.0}}})
    runs = plan.runs(changed, config)
    assert runs["changed", 0].train_config["loss_weights"] == {"depth": 1.0, "offset": 2.0}
    assert runs["base", 0].train_config["loss_weights"] == {"depth": 0.5, "offset": 2.0}
    same = written(tmp_path, {**RADIUS, "change": {"loss_weights": {"offset": 2.0}}})
    with pytest.raises(UserError, match="loss_weights is {'offset': 2.0} in the base"):
        plan.runs(same, config)


def test_a_change_of_the_prediction_trains_nothing(config, tmp_path):
    runs = plan.runs(written(tmp_path, {**RADIUS, "change": {"predict": {"flip": False}}}), config)
    assert runs["changed", 0].trained == runs["base", 0].name != runs["changed", 0].name
    assert runs["base", 0].predict["flip"] and not runs["changed", 0].predict["flip"]


def test_a_change_of_the_cache_gets_its_own(config, tmp_path):
    runs = plan.runs(written(tmp_path, {**RADIUS, "change": {"cache": {"scale": 1.0}}}), config)
    base, changed = runs["base", 0], runs["changed", 0]
    assert changed.cache == {**base.cache, "scale": 1.0} and changed.cache_folder != base.cache_folder
    assert changed.trained == changed.name


def test_epoch_cost_shortens_the_training(config, tmp_path):
    change = {"width": 0.25, "epoch_cost": 2.0}
    runs = plan.runs(written(tmp_path, {**RADIUS, "change": change, "together": "equal time"}), config)
    assert runs["changed", 0].train_config["epochs"] == config["studies_epochs"] // 2
    assert "epoch_cost" not in runs["changed", 0].train_config


def test_selection(tmp_path):
    written(tmp_path, RADIUS, "a")
    written(tmp_path, {**RADIUS, "on_request": "it needs the internet"}, "b")
    assert [study.name for study in plan.select(tmp_path, "all")] == ["a"]
    assert [study.name for study in plan.select(tmp_path, ["b", "a"])] == ["b", "a"]
    with pytest.raises(UserError, match=r"no c\.yaml in .*; known are a, b"):
        plan.select(tmp_path, ["a", "c"])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("seeds", 1, "seeds: .*1.*must be at least 2"),
        ("studies", "radius", "studies: "),
        ("bases", {"a": {"modle": "x"}}, "bases.a.modle: unknown key; did you mean mod"),
    ],
)
def test_settings_are_checked(config, key, value, message):
    with pytest.raises(UserError, match=message):
        plan.settings({**config, key: value})


def test_settings_given_as_strings_inside_braces(config):
    settings = plan.settings({**config, "bases": {"a": {"model": "hourglass", "lr": "1e-3"}}})
    assert settings["bases"]["a"]["lr"] == 1e-3
