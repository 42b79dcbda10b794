"""What studies find: verdicts on synthetic numbers, and one tiny study from photos to table and picture."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml

from carpose.core.errors import UserError
from carpose.studies import measure as studies
from tests.helpers import REPOSITORY, jobs, noisy_view, run_module, scene

TRUE_GAIN = 0.02


def simulated(rng, variants, seeds, gain, run=0.008, photo=0.004) -> pd.DataFrame:
    """Variants that all gain the same; seeds and photos each add their noise, the base's to all of them."""
    of_seed = 0.15 + rng.normal(0, 0.01, seeds)
    base = of_seed + rng.normal(0, run, seeds)
    of_photos = rng.normal(0, photo, (variants, 1))
    runs = of_seed + gain + rng.normal(0, run, (variants, seeds)) + of_photos
    return pd.DataFrame(
        {"mAP": list(runs), "gain": list(runs - base), "photo_error": photo, "photos": 500}
        | {"base": "a", "retrained": True}
    )


@pytest.mark.parametrize("variants, seeds", [(2, 3), (15, 3), (5, 5)])
def test_intervals_hold_the_true_gain(variants, seeds):
    rng = np.random.default_rng(0)
    tables = [studies.judge(simulated(rng, variants, seeds, TRUE_GAIN)) for _ in range(300)]
    covered = np.mean([(table["low"] < TRUE_GAIN) & (table["high"] > TRUE_GAIN) for table in tables])
    assert 0.92 < covered < 0.98


def test_detectable_is_seen_four_times_in_five():
    rng = np.random.default_rng(1)
    detectable = np.mean([studies.judge(simulated(rng, 10, 3, 0))["detectable"].mean() for _ in range(50)])
    verdicts = pd.concat([studies.judge(simulated(rng, 10, 3, detectable)) for _ in range(100)])["verdict"]
    assert 0.72 < (verdicts == "gain").mean() < 0.88 and (verdicts == "loss").sum() == 0


def test_verdicts():
    rng = np.random.default_rng(2)
    for gain, verdict in ((0.1, "gain"), (-0.1, "loss")):
        assert set(studies.judge(simulated(rng, 5, 3, gain))["verdict"]) == {verdict}
    nothing = pd.concat([studies.judge(simulated(rng, 5, 3, 0)) for _ in range(40)])["verdict"]
    assert (nothing == "not resolved").mean() > 0.9


def test_one_variant_is_the_paired_t_test():
    from scipy import stats

    row = simulated(np.random.default_rng(3), 1, 4, 0.01).assign(photo_error=0.0)
    interval = stats.ttest_1samp(row["gain"][0], 0).confidence_interval(0.95)
    found = studies.judge(row).iloc[0]
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))


def test_a_changed_prediction_is_judged_by_its_own_spread():
    """It shares its base's networks and so their luck: that others vary says nothing of it."""
    rows = simulated(np.random.default_rng(4), 3, 3, 0, run=0.02)
    base = rows["mAP"][0] - rows["gain"][0]
    gain = np.array([0.009, 0.010, 0.011])
    flip = rows.iloc[:1].assign(mAP=[base + gain], gain=[gain], retrained=False, photo_error=0.001)
    found = studies.judge(pd.concat([rows, flip], ignore_index=True))
    assert found["verdict"].tolist()[3] == "gain" and found["detectable"][0] > 5 * found["detectable"][3]


@pytest.fixture(scope="module")
def world():
    """Truth and three seeds of a base, of something better, and of the base once more."""
    rng = np.random.default_rng(5)
    truth = scene(80, rng)
    tables = {}
    for seed in range(3):
        tables["base", seed] = noisy_view(truth, rng, depth_noise=0.06)
        tables["better", seed] = noisy_view(truth, rng, depth_noise=0.03)
        tables["alike", seed] = noisy_view(truth, rng, depth_noise=0.06)
        tables["same", seed] = tables["base", seed]
    ids = sorted(truth["ImageId"].unique())
    return studies.compare(truth, {"held_out": ids[:50], "test": ids[50:]}, tables, samples=100)


def test_comparison_finds_what_is_there_and_nothing_else(world):
    rows = [
        {**entry, "base": "a", "retrained": variant != "same", "photos": 80, "variant": variant}
        for variant, entry in world.items()
        if variant != "base"
    ]
    found = studies.judge(pd.DataFrame(rows)).set_index("variant")
    assert found["verdict"].to_dict() == {"better": "gain", "alike": "not resolved", "same": "not resolved"}
    assert found.loc["same", ["gain", "low", "high", "detectable"]].eq(0).all()
    assert found.loc["alike", "photo_error"] > 0


def result(world, study, variant) -> dict:
    """As `measure` writes it."""
    run = {"losses": {"loss": 3.0, "depth": 0.5}, "cpu_minutes": 1.25, "code": "1.0"}
    entries = {"base": ({}, world["base"]), variant: ({"radius": 0.4}, world[variant])}
    return {
        "study": study,
        "base": "hourglass",
        "photos": {"held_out": 50, "test": 30},
        "variants": {
            name: {"change": change, "retrained": name != "base", **entry, "runs": [run] * 3}
            for name, (change, entry) in entries.items()
        },
    }


def test_table_into_a_document_and_again(world, tmp_path):
    paths = []
    for study, variant in (("first", "better"), ("second", "alike")):
        paths.append(tmp_path / f"{study}.json")
        paths[-1].write_text(json.dumps(result(world, study, variant)))
    begin, end = studies.MARKS
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{begin}\nan old table\n{end}\nafter\n")
    for _ in range(2):
        command = ["carpose.studies", "table", *paths, "--output", tmp_path / "t.json"]
        run_module(*command, "--document", document, "--picture", tmp_path / "p.png")
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "an old table" not in text
    lines = [line for line in text.splitlines() if line.startswith("|") and ("1.2" in line)]
    assert [line.split("|")[1].strip() for line in lines] == ["", "first", "second"], "the base stands once"
    assert "| gain |" in lines[1] and "| not resolved |" in lines[2]
    assert (tmp_path / "p.png").stat().st_size > 5000
    document.write_text("no marks")
    with pytest.raises(UserError, match="no place for the table"):
        studies.insert("x", document)


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: not a result of"):
        studies.read_table([tmp_path / "x.json"])


# The workflow


def snakemake(folder, *arguments, check=True):
    """Run workflow/studies.smk in `folder`; the text it printed."""
    command = ["snakemake", "-s", str(REPOSITORY / "workflow" / "studies.smk"), "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0 or not check, text[-6000:]
    return text


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
    snakemake(folder, "studies", *tiny(folder))
    return folder


def test_a_study_ends_with_table_and_picture(finished):
    results = finished / "results" / "ci"
    content = json.loads((results / "tiny.json").read_text())
    assert content["photos"] == {"held_out": 6, "test": 6} and content["code"]
    variants = content["variants"]
    assert [variants[name]["retrained"] for name in ("base", "bce", "flip")] == [False, True, False]
    for entry in variants.values():
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
        assert all(run["recipe"] and run["code"] and run["data"] for run in entry["runs"])
        assert all(run["cpu_minutes"] > 0 and run["losses"]["depth"] for run in entry["runs"])
    recipes = {name: [run["recipe"] for run in entry["runs"]] for name, entry in variants.items()}
    assert recipes["flip"] == recipes["base"] != recipes["bce"]
    assert len(list(results.rglob("model.pt"))) == 4, "fold 0 alone, and none for the changed prediction"
    table = json.loads((results / "table" / "studies.json").read_text())
    assert [row["study"] for row in table] == ["", "tiny", "tiny"]
    assert "heatmap_loss: bce" in (results / "table" / "studies.md").read_text()
    assert (results / "table" / "studies.png").stat().st_size > 5000


def test_nothing_is_done_twice(finished):
    assert "Nothing to be done" in snakemake(finished, "-n", "studies", *tiny(finished))
    planned = jobs(snakemake(finished, "-n", "studies", *tiny(finished, seeds=3)))
    assert planned["train"] == "2" and "build_cache" not in planned


def test_words_of_a_study_train_nothing(finished):
    write_study(finished, "another note")
    planned = jobs(snakemake(finished, "-n", "studies", *tiny(finished)))
    assert planned["measure"] == "1" and not {"train", "predict"} & set(planned)


def test_shipped_studies_are_planned_with_shared_bases(tmp_path):
    names = ["heatmap_loss", "radius", "flip_at_test", "input_size"]
    planned = jobs(snakemake(tmp_path, "-n", "studies", "--config", f"studies=[{','.join(names)}]"))
    assert planned["train"] == str(3 * (1 + 1 + 4 + 3)) and planned["predict"] == str(3 * (1 + 1 + 4 + 1 + 3))
    assert planned["build_cache"] == "2" and planned["demo_data"] == "1" and planned["measure"] == "4"
    assert jobs(snakemake(tmp_path, "-n", "results/studies/yaw.json"))["train"] == "6"


def test_crops_of_the_command_line_are_numbers_to_the_studies(tmp_path):
    def plan(crop, check=True):
        options = ("studies=[radius]", f'train={{"crop": {crop}}}')
        return snakemake(tmp_path, "-n", "studies", "--config", *options, check=check)

    assert "measure" in plan("[0.0, 0.592, 1.0, 0.872]")
    assert "radius" in (text := plan("[0.0, 0.592, 1.0, 0.95]", False)) and "cache.crop leaves out" in text
    assert "crop: 5 is not right; it must be of type array" in plan("5", False)


def test_published_weights_are_fetched_for_the_base_that_begins_with_them(tmp_path):
    planned = jobs(snakemake(tmp_path, "-n", "studies", "--config", "studies=[pretrained]"))
    assert planned["fetch_weights"] == "3" and planned["train"] == "6"


def test_a_wrong_study_stops_at_once(tmp_path):
    text = snakemake(tmp_path, "-n", "studies", "--config", "studies=[radios]", check=False)
    assert "there is no radios.yaml in" in text
