"""What studies find: verdicts on made-up numbers, and the table of many studies."""

import json

import numpy as np
import pandas as pd
import pytest

from carpose.core.errors import UserError
from carpose.studies.table import compare, holm, judge, read_table
from tests.helpers import noisy_view, run_module, scene

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
    tables = [judge(simulated(rng, variants, seeds, TRUE_GAIN)) for _ in range(300)]
    covered = np.mean([(table["low"] < TRUE_GAIN) & (table["high"] > TRUE_GAIN) for table in tables])
    assert 0.92 < covered < 0.98


def test_detectable_is_seen_four_times_in_five():
    rng = np.random.default_rng(1)
    detectable = np.mean([judge(simulated(rng, 10, 3, 0))["detectable"].mean() for _ in range(50)])
    verdicts = pd.concat([judge(simulated(rng, 10, 3, detectable)) for _ in range(100)])["verdict"]
    assert 0.72 < (verdicts == "gain").mean() < 0.88 and (verdicts == "loss").sum() == 0


def test_verdicts():
    rng = np.random.default_rng(2)
    for gain, verdict in ((0.1, "gain"), (-0.1, "loss")):
        assert set(judge(simulated(rng, 5, 3, gain))["verdict"]) == {verdict}
    nothing = pd.concat([judge(simulated(rng, 5, 3, 0)) for _ in range(40)])["verdict"]
    assert (nothing == "inconclusive").mean() > 0.9


def test_one_variant_is_the_paired_t_test():
    from scipy import stats

    row = simulated(np.random.default_rng(3), 1, 4, 0.01).assign(photo_error=0.0)
    interval = stats.ttest_1samp(row["gain"][0], 0).confidence_interval(0.95)
    judged = judge(row).iloc[0]
    assert (judged["low"], judged["high"]) == pytest.approx((interval.low, interval.high))


def test_a_changed_prediction_is_judged_by_its_own_spread():
    """It shares its base's networks and so their luck: that others vary says nothing of it."""
    rows = simulated(np.random.default_rng(4), 3, 3, 0, run=0.02)
    base = rows["mAP"][0] - rows["gain"][0]
    gain = np.array([0.009, 0.010, 0.011])
    flip = rows.iloc[:1].assign(mAP=[base + gain], gain=[gain], retrained=False, photo_error=0.001)
    judged = judge(pd.concat([rows, flip], ignore_index=True))
    assert judged["verdict"].tolist()[3] == "gain" and judged["detectable"][0] > 5 * judged["detectable"][3]


def test_p_values_are_those_of_the_intervals():
    """One variant: the paired t-test's own, not adjusted. Below .05 where the interval leaves out zero."""
    from scipy import stats

    row = simulated(np.random.default_rng(3), 1, 4, 0.01).assign(photo_error=0.0)
    judged = judge(row).iloc[0]
    assert judged["p"] == judged["p_holm"] == pytest.approx(stats.ttest_1samp(row["gain"][0], 0).pvalue)
    many = pd.concat([judge(simulated(np.random.default_rng(seed), 4, 3, 0.01)) for seed in range(20)])
    assert ((many["p"] < 0.05) == (many["verdict"] != "inconclusive")).all()
    assert 0 < (many["p"] < 0.05).mean() < 1 and (many["p_holm"] >= many["p"]).all()


def test_holm_allows_for_many_questions():
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.4, 0.9])), [0.8, 0.9])
    np.testing.assert_allclose(holm(np.array([0.7, 0.6, 0.5])), [1, 1, 1])
    rng = np.random.default_rng(5)  # of twenty changes that do nothing, any is called a gain in one of twenty
    tables = [judge(simulated(rng, 20, 3, 0, photo=0.0)) for _ in range(200)]
    plain, adjusted = (np.mean([(t[name] < 0.05).any() for t in tables]) for name in ("p", "p_holm"))
    assert adjusted < 0.1 < plain


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
    return compare(truth, {"held_out": ids[:50], "test": ids[50:]}, tables, samples=100)


def test_comparison_finds_what_is_there_and_nothing_else(world):
    rows = [
        {**entry, "base": "a", "retrained": variant != "same", "photos": 80, "variant": variant}
        for variant, entry in world.items()
        if variant != "base"
    ]
    judged = judge(pd.DataFrame(rows)).set_index("variant")
    assert judged["verdict"].to_dict() == {"better": "gain", "alike": "inconclusive", "same": "inconclusive"}
    assert judged.loc["same", ["gain", "low", "high", "detectable"]].eq(0).all()
    assert judged.loc["same", "p"] == 1
    assert judged.loc["alike", "photo_error"] > 0


def test_hidden_truth_does_not_choose():
    """A variant that is better on the test photos alone gains nothing; their score stands beside it."""
    rng = np.random.default_rng(6)
    truth = scene(60, rng)
    ids = sorted(truth["ImageId"].unique())
    sets = {"held_out": ids[:40], "test": ids[40:]}
    tables = {}
    for seed in range(2):
        base, better = (noisy_view(truth, rng, depth_noise=noise) for noise in (0.06, 0.01))
        of_test = [table["ImageId"].isin(sets["test"]) for table in (base, better)]
        tables["base", seed] = base
        tables["tested", seed] = pd.concat([base[~of_test[0]], better[of_test[1]]], ignore_index=True)
    entries = compare(truth, sets, tables, samples=50)
    assert entries["tested"]["gain"] == [0, 0] and entries["tested"]["photo_error"] == 0
    assert entries["tested"]["mAP"] == entries["base"]["mAP"] == entries["base"]["held_out"]
    assert np.mean(entries["tested"]["test"]) > np.mean(entries["base"]["test"]) + 0.1


def result(world, study, variant) -> dict:
    """As `measure` writes it."""
    run = {"losses": {"loss": 3.0, "depth": 0.5}, "cpu_minutes": 1.25, "code": "1.0"}
    run |= {"train_config": "r", "data": "d"}
    entries = {"base": ({}, world["base"]), variant: ({"radius": 0.4}, world[variant])}
    return {
        "study": study,
        "base": "hourglass",
        "photos": {"held_out": 50, "test": 30},
        "photos_digest": {"held_out": "h", "test": "t"},
        "variants": {
            name: {
                "change": change,
                "retrained": name != "base",
                **entry,
                "runs": [run | {"seed": seed} for seed in range(3)],
            }
            for name, (change, entry) in entries.items()
        },
    }


def test_table_of_two_studies_with_one_base(world, tmp_path):
    paths = []
    for study, variant in (("first", "better"), ("second", "alike")):
        paths.append(tmp_path / f"{study}.json")
        paths[-1].write_text(json.dumps(result(world, study, variant)))
    command = ["carpose.studies", "table", *paths, "--output", tmp_path / "t.json"]
    run_module(*command, "--markdown", tmp_path / "t.md", "--picture", tmp_path / "p.png")
    text = (tmp_path / "t.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|") and ("1.2" in line)]
    assert [line.split("|")[1].strip() for line in lines] == ["", "first", "second"], "the base stands once"
    assert "| gain |" in lines[1] and "| inconclusive |" in lines[2]
    assert "| mAP, test photos (not for the verdict) |" in text and "measured on 50 held-out photos" in text
    p = {row["study"]: (row["p"], row["p_holm"]) for row in json.loads((tmp_path / "t.json").read_text())}
    assert p["first"][1] == pytest.approx(2 * p["first"][0], abs=1e-6) and p[""] == (None, None)
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: not a result of"):
        read_table([tmp_path / "x.json"])


@pytest.mark.parametrize(
    "differs, change",
    [
        (
            "digests of the training configuration",
            lambda content, base: base["runs"][1].update(train_config="other"),
        ),
        ("data digests", lambda content, base: base["runs"][2].update(data="other")),
        ("seeds", lambda content, base: [run.update(seed=run["seed"] + 3) for run in base["runs"]]),
        ("photos to measure on", lambda content, base: content["photos"].update(test=31)),
        ("photos to measure on", lambda content, base: content["photos_digest"].update(held_out="o")),
        ("scores", lambda content, base: base["test"].__setitem__(0, 0.5)),
    ],
)
def test_studies_of_other_bases_are_not_one_table(world, tmp_path, differs, change):
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path in paths:
        content = json.loads(json.dumps(result(world, path.stem, "better")))
        if path is paths[1]:
            change(content, content["variants"]["base"])
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"first.json and .*second.json: the base .*: {differs} differ;"):
        read_table(paths)
    content["base"] = "lite0"
    paths[1].write_text(json.dumps(content))
    assert len(read_table(paths)) == 4


def test_a_result_that_pooled_hidden_truth_is_to_be_measured_again(world, tmp_path):
    content = json.loads(json.dumps(result(world, "old", "better")))
    for entry in content["variants"].values():
        entry["mAP"] = np.mean([entry["held_out"], entry["test"]], axis=0).tolist()
    (tmp_path / "old.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"old\.json: an old version measured its gains on the test photos.* -R measure"
    ):
        read_table([tmp_path / "old.json"])
