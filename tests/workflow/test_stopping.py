"""A run that is stopped at a time, copied and continued; a run that starts with the networks of another."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import CI, jobs, snakemake

SMALL = [*CI, "--config", "rounds=1", 'models={"hourglass": null}', 'train={"epochs": 4}']
TARGETS = ("results/ci/submission.csv", "results/ci/evaluation.csv")
DATA = {"demo_data", "check_data", "split_folds", "build_cache"}


def copied(source: Path, folder: Path, records: bool = True) -> Path:
    """The run in another folder, with new file times, the data newest, and without locks."""
    shutil.copytree(source / "results", folder / "results", copy_function=shutil.copyfile)
    if records:
        left_out = shutil.ignore_patterns("locks", "log")
        shutil.copytree(
            source / ".snakemake", folder / ".snakemake", ignore=left_out, copy_function=shutil.copyfile
        )
    results = folder / "results" / "ci"
    first = time.time() - 60  # not in the future, which Snakemake takes for a wrong clock
    for path in results.rglob("*"):
        os.utime(path, (first,) * 2)
    order = ["round1", "round0", "data", "cache", "demo_identity.txt", "demo_truth.csv"]
    for place, name in enumerate(order, 1):
        for path in [results / name, *(results / name).rglob("*")]:
            if path.is_file():
                os.utime(path, (first + place,) * 2)
    return folder


def with_data(finished: Path, folder: Path) -> Path:
    """The finished run without its trainings and what follows them."""
    copied(finished, folder)
    for path in (folder / "results" / "ci").glob("*"):
        if path.name.startswith(("round", "fus", "submission", "evaluation", "pictures")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def stopped(folder: Path, minutes: float) -> str:
    """Start the run until a training has saved its state: on a slow machine the first minutes are too few to
    begin one. What the last start printed."""
    while True:
        limit = f'running={{"stop_after_minutes": {minutes}}}'
        text = snakemake(folder, *TARGETS, *SMALL, limit, check=False)
        message = rf"^stopped after {minutes:g} minutes as asked; go on with the same command$"
        assert re.search(message, text, re.M), text
        if list(folder.rglob("state.pt")):
            return text
        minutes *= 2


@pytest.mark.slow
def test_stopped_at_its_time_and_copied_it_ends_the_same(finished, tmp_path):
    whole = with_data(finished, tmp_path / "whole")
    assert not DATA & jobs(snakemake(whole, *TARGETS, *SMALL)).keys()

    begun = with_data(finished, tmp_path / "begun")
    text = stopped(begun, minutes=0.05)  # a training takes longer to import torch, and stops after a step
    assert "stopped at the time that was asked for; the state is saved, the same command resumes" in text
    states = list(begun.rglob("state.pt"))
    assert states and not (begun / TARGETS[0]).exists()

    moved = copied(begun, tmp_path / "moved")
    text = snakemake(moved, *TARGETS, *SMALL)
    assert not DATA & jobs(text).keys() and text.count("going on at epoch") == len(states)
    files = [*TARGETS, *(f"results/ci/round0/dla34/fold{fold}/model.pt" for fold in (0, 1))]
    for name in (*files, "results/ci/round0/dla34/oof.parquet", "results/ci/fusion.json"):
        assert (moved / name).read_bytes() == (whole / name).read_bytes(), name
    again = copied(moved, tmp_path / "again")
    assert "Nothing to be done" in snakemake(again, *TARGETS, *SMALL)


def test_a_copy_of_a_finished_run_plans_nothing(finished, tmp_path):
    moved = copied(finished, tmp_path / "moved")
    assert "Nothing to be done" in snakemake(moved, "-n", "submission", *CI)


def test_without_its_records_a_run_says_what_it_cannot_know(finished, tmp_path):
    moved = copied(finished, tmp_path / "moved", records=False)
    text = snakemake(moved, "-n", "submission", *CI)
    assert "note: results/ci is here without Snakemake's records (.snakemake)" in text and jobs(text)
    snakemake(moved, "--touch", "submission", *CI)
    text = snakemake(moved, "-n", "submission", *CI)
    assert "Nothing to be done" in text
    assert "without Snakemake's records" not in snakemake(finished, "-n", "submission", *CI)


def test_a_run_starts_with_the_networks_of_another(finished, tmp_path):
    """With those of its last round, on the same folds; so small a learning rate leaves them as they were."""
    run = copied(finished, tmp_path / "run")
    longer = [*CI, "--config", "run=longer", "rounds=1", 'models={"hourglass": null}', "start_from=ci"]
    text = snakemake(run, "-n", "trained", *longer, check=False)
    assert "start_from: the run ci has folds of its own; set data_from: ci" in text
    longer += ["data_from=ci", 'train={"lr": 1.0e-6, "epochs": 1}']
    target = "round0/dla34/fold1/model.pt"
    text = snakemake(run, f"results/longer/{target}", *longer)
    assert jobs(text)["train"] == "1" and "demo_data" not in jobs(text)
    ours = torch.load(run / "results" / "longer" / target, weights_only=True)["weights"]
    theirs = torch.load(run / "results" / "ci" / target.replace("0", "1", 1), weights_only=True)["weights"]
    for name, value in theirs.items():
        if name.endswith("weight"):
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4)
    (run / "results" / "ci" / target.replace("0", "1", 1)).unlink()
    text = snakemake(run, "-n", f"results/longer/{target}", *longer, "-F", check=False)
    assert "start_from: there is no results/ci/round1/dla34/fold1/model.pt; finish the run ci first" in text
