"""What a change of any key of the configuration, or of the data, plans: dry runs over a finished run."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from carpose.config.page import schema_text
from tests.helpers import CI, jobs, snakemake

FUSED = {"fit_fusion", "fuse", "write_submission", "evaluate", "draw"}
LATER = {"train", "predict", *FUSED}  # of round 1
FIRST = {*LATER, "make_pseudo_labels"}
CACHED = {*FIRST, "build_cache"}
FOLDED = {*FIRST, "split_folds"}
CHECKED = {*CACHED, "split_folds", "check_data"}
RENDERED = {*CHECKED, "demo_data"}

# Key → a value other than the one of configs/ci.yaml, and the rules whose jobs it plans.
RETRAINED = '{"dla34": {"retrain": {"lr": 0.001}}}'
CHANGES = {
    "demo": {
        **{"train_images": 13, "test_images": 7, "seed": 2, "scale": 0.11, "max_distance": 41},
        **{"poses_from": str(CI[1]), "car_models": "folder", "car_model_ids": str(CI[1])},
    },
    "exclude": {"images": {"ID_1": "broken"}, "max_depth": 30, "max_depth_reason": "far", "max_photos": 8},
    "folds": {"count": 3, "hash_distance": 2, "seed": 5},
    "cache": {"crop": [-0.02, 0.5, 1.02, 0.93], "scale": 0.9},
    "running": {
        "validate_every": 2,
        "save_minutes": 3,
        "stop_after_minutes": 90,
        "workers": 1,
        "tensorboard": True,
        "cuda_graphs": True,
    },
    "predict": {
        **{
            "threshold": 0.02,
            "batch_size": 4,
            "max_cars": 65,
            "flip": True,
            "mask_filter": False,
            "runtime": "openvino",
        },
        "tta_rotations_deg": [[0, 0.25, 0]],
    },
    "pseudo": {"mode": "hard", "precision_positive": 0.7, "probability_ignore": 0.1},
    "fuse": {"mode": "leaderboard", "rounds": [0]},
    "resources": {"train": {"threads": 2}, "predict": {"mem_mb": 1600}, "small": {"runtime": 11}},
}
PLANS = {
    **{"demo": RENDERED, "exclude": CHECKED, "folds": FOLDED, "cache": CACHED, "running": set()},
    **{"predict": FIRST, "pseudo": {*LATER, "make_pseudo_labels"}, "fuse": FUSED, "resources": set()},
}
# What changes no result, what the models of configs/ci.yaml say themselves, what their backbones do not take.
WITHOUT_EFFECT = {"gpus", "backbone", "width", "stacks", "modules"}
# These in a model: then they change its network. A path is a file of weights.
OF_MODELS = {
    "backbone": {"dla34": {"backbone": "timm:resnet18", "width": 1}},
    "width": {"dla34": {"width": 0.25}},
    "stacks": {"hourglass": {"stacks": 2}},
    "modules": {"hourglass": {"modules": 2}},
    "pretrained": {"dla34": {"pretrained": str(CI[1])}},
    "revision": {"dla34": {"revision": 1}},
}


def planned(folder: Path, *config: str) -> dict[str, str]:
    return jobs(snakemake(folder, "-n", "submission", *CI, "--config", *config))


def other(key: str, schema: dict):
    """A valid value of a key that is neither its default nor that of configs/ci.yaml."""
    given = {"backbone": "hourglass", "crop": [0.0, 0.6, 1.0, 0.87], "rotate_deg": [1.0, 1.5, 1.0]}
    given |= {"input_width": 224, "input_height": 96, "neck_channels": 24, "heads": [], "width": 0.25}
    given |= {"loss_weights": {"depth": 1}, "mask_channel": True, "batch_size": 2, "gpus": 0, "flip": 0.4}
    given |= {"pretrained": str(CI[1])}
    if key in given:
        return given[key]
    if "enum" in schema:
        return schema["enum"][-1]
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", 7)
    return low + (2 if schema["type"] == "integer" else (high - low) / 7)


def cases() -> list[tuple[str, str, set[str], dict[str, str]]]:
    """(name, --config, rules that it plans, numbers of jobs where they matter)"""
    result = []
    for section, changes in CHANGES.items():
        for key, value in changes.items():
            if value == "openvino" and not find_spec("openvino"):  # refused before anything is planned
                continue
            plan = set() if key == "max_depth_reason" else PLANS[section]  # a reason is for the record alone
            result.append((f"{section}.{key}", f"{section}={json.dumps({key: value})}", plan, {}))
    definitions = json.loads(schema_text())["$defs"]
    for key, schema in definitions["model"]["properties"].items():
        if key == "retrain":
            continue
        change = f"train={json.dumps({key: other(key, schema)})}"
        plan = set() if key in WITHOUT_EFFECT else FIRST
        result.append((f"train.{key}", change, plan, {"train": "8"} if plan else {}))
    for key in ("epochs", "lr", "pseudo_share", "pseudo_augment_scale", "start", "seed", "revision"):
        change = f"retrain={json.dumps({key: other(key, definitions['retrain']['properties'][key])})}"
        result.append((f"retrain.{key}", change, LATER, {"train": "4", "predict": "2"}))
    result += [
        ("rounds", "rounds=3", {*LATER, "make_pseudo_labels"}, {"train": "4", "make_pseudo_labels": "1"}),
        ("models.retrain", f"models={RETRAINED}", LATER, {"train": "2", "predict": "1"}),
        ("models.null", 'models={"dla34": null}', {*LATER, "make_pseudo_labels"}, {}),
        # Numbers that change places, or take another's value: Snakemake compares values of params as a set.
        ("folds alike", 'folds={"hash_distance": 2, "seed": 2}', FOLDED, {}),
        ("size alike", 'train={"input_width": 64}', FIRST, {"train": "8"}),
    ]
    for (
        key,
        change,
    ) in OF_MODELS.items():  # the other model's networks of round 1 learn from new pseudo labels
        result.append(
            (f"models.{key}", f"models={json.dumps(change)}", FIRST, {"train": "6", "predict": "3"})
        )
    return result


def test_the_walk_knows_every_key():
    schema = json.loads(schema_text())
    sections = set(schema["properties"]) - {
        "run",
        "data_root",
        "data_from",
        "start_from",
        "rounds",
        "train",
        "retrain",
        "models",
    }
    assert set(CHANGES) == sections
    for section in sections:
        assert set(CHANGES[section]) == set(schema["properties"][section]["properties"]), section
    walked = {name.partition(".")[2] for name, *_ in cases() if name.startswith("train.")}
    assert walked | {"retrain"} == set(schema["$defs"]["model"]["properties"])
    assert set(OF_MODELS) >= WITHOUT_EFFECT - {"gpus"}


@pytest.mark.slow
def test_a_changed_key_plans_exactly_what_depends_on_it(finished):
    """A dry run for each key."""
    everything = cases()

    def mistakes(case):
        name, change, rules, numbers = case
        plan = planned(finished, change)
        planned_rules = set(plan) - {"submission"}
        if planned_rules != rules:
            return [f"{name}: plans {sorted(planned_rules)}, not {sorted(rules)}"]
        return [
            f"{name}: {rule} {plan[rule]} times, not {number}"
            for rule, number in numbers.items()
            if plan[rule] != number
        ]

    with ThreadPoolExecutor(2) as pool:
        lines = [line for wrong in pool.map(mistakes, everything) for line in wrong]
    assert not lines, "\n".join(lines)


def test_fusing_again_trains_nothing(finished):
    plan = jobs(snakemake(finished, "-n", "submission", "-R", "fuse", *CI))
    assert set(plan) - {"submission"} == FUSED - {"fit_fusion"}


def test_later_rounds_are_nothing_to_the_first(finished):
    assert planned(finished, 'retrain={"lr": 0.003}')["train"] == "4"
    changes = ['retrain={"pseudo_share": 0.1}', 'models={"dla34": {"revision": 0}}']
    assert planned(finished, *changes)["train"] == "4"


def test_one_model_trains_alone(finished):
    text = snakemake(finished, "-n", "trained", *CI, "--config", 'models={"dla34": {"revision": 1}}')
    assert jobs(text)["train"] == "2"
    assert "round0/dla34/fold0/model.pt" in text and "output: results/ci/round0/hourglass" not in text


def test_how_it_runs_is_no_part_of_the_result(finished):
    running = '"workers": 2, "save_minutes": 3, "validate_every": 1, "tensorboard": true, "cuda_graphs": true'
    changes = ['resources={"train": {"threads": 2}}', f"running={{{running}}}", 'train={"gpus": 0}']
    assert not planned(finished, *changes)


@pytest.fixture(scope="module")
def with_data(finished, tmp_path_factory):
    """A finished run on a folder of the user's: the finished demo's photos, given as data_root."""
    folder = tmp_path_factory.mktemp("with_data")
    shutil.copytree(finished / "results" / "ci" / "demo", folder / "data")
    small = ["rounds=1", 'models={"dla34": null}', 'train={"epochs": 1}', f"data_root={folder / 'data'}"]
    snakemake(folder, "submission", *CI, "--config", *small)
    return folder, small


@pytest.mark.slow
def test_data_are_the_same_wherever_they_lie(with_data, tmp_path):
    """Another spelling, a relative path, a copy with other times at another place: nothing to do. A photo
    that is replaced, masks that go, a changed label: all from the check on."""
    folder, small = with_data
    *rest, _ = small

    def plan(root):
        return set(planned(folder, *rest, f"data_root={root}")) - {"submission"}

    shutil.copytree(folder / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    for root in (folder / "data", f"{folder / 'data'}/", "data", "./data/../data", tmp_path / "copy"):
        assert not plan(root), root
    everything = (CHECKED - {"make_pseudo_labels"}) | {"evaluate"}
    photo = next((tmp_path / "copy" / "train_images").glob("*.jpg"))
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert plan(tmp_path / "copy") == everything
    shutil.copytree(folder / "data", tmp_path / "bare", ignore=shutil.ignore_patterns("*_masks"))
    assert plan(tmp_path / "bare") == everything
    shutil.copytree(folder / "data", tmp_path / "moved")
    table = tmp_path / "moved" / "train.csv"
    table.write_text(table.read_text().replace("1", "2", 1))
    assert plan(tmp_path / "moved") == everything


def test_data_root_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    planned = snakemake(tmp_path, "-n", "data_check", *CI, "--config", "data_root=~/none", check=False)
    assert f"data_root: there is no {tmp_path}/none/train.csv; name the folder" in planned
