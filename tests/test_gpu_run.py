"""The GPU run's command: its settings, its wheels, what it does when the time is over."""

import argparse
import re
import subprocess
import sys
import time

import pytest

from benchmarks import gpu_run
from tests.helpers import ENVIRONMENT, REPOSITORY


def arguments(**changes):
    return argparse.Namespace(**{"rehearse": False, "data": None, "config": []} | changes)


def test_settings_are_merged_key_by_key(tmp_path):
    config = ["run=wide", "rounds=2", 'demo={"train_images": 40}', 'models={"dla34": null}']
    merged = gpu_run.overrides(arguments(rehearse=True, data=tmp_path, config=config))
    assert merged["run"] == "wide" and merged["rounds"] == 2
    assert merged["demo"]["train_images"] == 40 and merged["demo"]["test_images"] == 4
    assert merged["demo"]["poses_from"] == str(tmp_path / "train.csv")
    assert merged["models"]["dla34"] is None and merged["models"]["efficientnet"] == {"width": 0.25}
    assert gpu_run.REHEARSAL["demo"]["train_images"] == 12  # the rehearsal's settings are not changed


@pytest.mark.parametrize("rehearse", [False, True])
def test_the_workflow_accepts_the_configuration(tmp_path, rehearse):
    config = gpu_run.overrides(arguments(rehearse=rehearse))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "submission",
        "report",
        "-s",
        REPOSITORY / "Snakefile",
    ]
    command += ["--configfile", gpu_run.CONFIG, *(["--config", *gpu_run.settings(config)] if config else [])]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^train +6$", done.stdout, re.M)


def test_wheels_are_pinned_by_the_lock():
    locked = re.findall(r"^([\w.-]+)==", (REPOSITORY / "envs" / "requirements.lock").read_text(), re.M)
    names = (REPOSITORY / "envs" / "gpu_run.txt").read_text().split()
    assert names and not set(names) - set(locked)


def test_wheels_of_present_packages_are_not_installed(tmp_path, monkeypatch):
    (tmp_path / "numpy-1.0-py3-none-any.whl").write_bytes(b"")
    monkeypatch.setattr(gpu_run.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    gpu_run.install(tmp_path)


def test_a_run_without_results_still_has_a_summary_and_details(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watch, run = tmp_path / "gpu.csv", tmp_path / "results" / "gpu_run"
    watch.write_text("1024, 0\n40960, 90\n")
    summary = gpu_run.summarise(run, watch, time.time() - 60, "stopped")
    assert "gpu_run: stopped after 1.0 minutes" in summary
    assert "40.0 GiB of memory at most, utilisation 45 % on average, 1 of 2 seconds in use" in summary
    gpu_run.collect(run, tmp_path)
    assert (tmp_path / "details.tar.gz").is_file() and not watch.exists()


def test_a_stop_ends_all_jobs():
    command = f"trap '' TERM; {sys.executable} -c 'import time; time.sleep(60)'"
    process = subprocess.Popen(["bash", "-c", command], start_new_session=True)
    gpu_run.stop(process, patience=1)
    assert process.poll() is not None
