"""Studies as a workflow: one tiny study from photos to table and picture, and plans of the shipped ones."""

import json

import pytest
import yaml

from tests.helpers import REPOSITORY, jobs, snakemake


def studies(folder, *arguments, check=True):
    """Run workflow/studies.smk in `folder`; the text it printed."""
    return snakemake(folder, *arguments, workflow="workflow/studies.smk", check=check)


def tiny(folder, seeds=2):
    """Options of the tests' run with the study files of `folder`."""
    settings = [f"studies_folder={folder / 'files'}", f"seeds={seeds}", "studies_epochs=1"]
    return ["--configfile", str(REPOSITORY / "configs" / "ci.yaml"), "--config", *settings]


def write_study(folder, note):
    content = {"question": "Tiny?", "base": "hourglass", "note": note}
    content["variants"] = {"bce": {"heatmap_loss": "bce"}, "flip": {"predict": {"flip": True}}}
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "tiny.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_study(folder, "a note")
    studies(folder, "studies", *tiny(folder))
    return folder


@pytest.mark.slow
def test_a_study_ends_with_table_and_picture(finished):
    results = finished / "results" / "ci"
    content = json.loads((results / "tiny.json").read_text())
    assert content["photos"] == {"held_out": 6, "test": 6} and content["code"]
    variants = content["variants"]
    assert [variants[name]["retrained"] for name in ("base", "bce", "flip")] == [False, True, False]
    for entry in variants.values():
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
        assert all(run["train_config"] and run["code"] and run["data"] for run in entry["runs"])
        assert all(run["cpu_minutes"] > 0 and run["losses"]["depth"] for run in entry["runs"])
    train_configs = {name: [run["train_config"] for run in entry["runs"]] for name, entry in variants.items()}
    assert train_configs["flip"] == train_configs["base"] != train_configs["bce"]
    assert len(list(results.rglob("model.pt"))) == 4, "fold 0 alone, and none for the changed prediction"
    table = json.loads((results / "table" / "studies.json").read_text())
    assert [row["study"] for row in table] == ["", "tiny", "tiny"]
    assert "heatmap_loss: bce" in (results / "table" / "studies.md").read_text()
    assert (results / "table" / "studies.png").stat().st_size > 5000


@pytest.mark.slow
def test_nothing_is_done_twice(finished):
    assert "Nothing to be done" in studies(finished, "-n", "studies", *tiny(finished))
    planned = jobs(studies(finished, "-n", "studies", *tiny(finished, seeds=3)))
    assert planned["train"] == "2" and "build_cache" not in planned


@pytest.mark.slow
def test_words_of_a_study_train_nothing(finished):
    write_study(finished, "another note")
    planned = jobs(studies(finished, "-n", "studies", *tiny(finished)))
    assert planned["measure"] == "1" and not {"train", "predict"} & set(planned)


def test_shipped_studies_are_planned_with_shared_bases(tmp_path):
    names = ["heatmap_loss", "radius", "flip_at_test", "input_size"]
    planned = jobs(studies(tmp_path, "-n", "studies", "--config", f"studies=[{','.join(names)}]"))
    assert planned["train"] == str(3 * (1 + 1 + 3 + 3)) and planned["predict"] == str(3 * (1 + 1 + 3 + 1 + 3))
    assert planned["build_cache"] == "2" and planned["demo_data"] == "1" and planned["measure"] == "4"
    assert jobs(studies(tmp_path, "-n", "results/studies/warmup.json"))["train"] == "6"


def test_crops_of_the_command_line_are_numbers_to_the_studies(tmp_path):
    def plan(crop, check=True):
        options = ("studies=[radius]", f'train={{"crop": {crop}}}')
        return studies(tmp_path, "-n", "studies", "--config", *options, check=check)

    assert "measure" in plan("[0.0, 0.592, 1.0, 0.872]")
    assert "outside cache.crop; widen cache.crop" in plan("[0.0, 0.592, 1.0, 0.95]", False)
    assert "train.crop: invalid value 5; it must be of type array" in plan("5", False)


def test_published_weights_are_fetched_for_the_base_that_begins_with_them(tmp_path):
    planned = jobs(studies(tmp_path, "-n", "studies", "--config", "studies=[pretrained]"))
    assert planned["fetch_weights"] == "1" and planned["train"] == "6"


def test_a_wrong_study_stops_at_once(tmp_path):
    text = studies(tmp_path, "-n", "studies", "--config", "studies=[radios]", check=False)
    assert "there is no radios.yaml in" in text
