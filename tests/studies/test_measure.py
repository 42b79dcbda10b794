"""What studies find: verdicts on made-up numbers, and the table of many studies."""

import json

import numpy as np
import pandas as pd
import pytest

from carpose.core.errors import UserError
from carpose.studies.table import compare, judge, read_table
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
    assert judged.loc["alike", "photo_error"] > 0


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
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: not a result of"):
        read_table([tmp_path / "x.json"])
