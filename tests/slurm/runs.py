"""Runs of the workflow that the tests on Slurm share."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.helpers import REPOSITORY

ONLY_ON_REQUEST = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.environ.get("CARPOSE_SLURM_TESTS") != "1",
        reason="starts a Slurm controller: set CARPOSE_SLURM_TESTS=1, or use `make test-slurm`",
    ),
]
PROFILE = [
    *("--profile", str(REPOSITORY / "workflow" / "profiles" / "slurm")),
    *("--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "slurm-noaccounting")),
    *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"),
    "--slurm-keep-successful-logs",
]
# Slurm's jobs find this interpreter as `python`.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
CONFIGS = [REPOSITORY / "configs" / "ci.yaml", Path(__file__).with_name("tiny.yaml")]
WORKFLOW = ["-s", str(REPOSITORY / "Snakefile"), "submission", "--configfile", *map(str, CONFIGS)]


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake in `folder`, printing to run.log."""
    with open(folder / "run.log", "ab") as log:
        command = [sys.executable, "-m", "snakemake", *arguments]
        return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)


@functools.cache
def reference() -> tuple[Path, subprocess.Popen]:
    """WORKFLOW on this machine alone, started once and left to itself: its folder and process."""
    folder = Path(tempfile.mkdtemp(prefix="carpose-reference-"))
    run = snakemake(folder, *WORKFLOW, "--cores", "1")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(run.terminate)
    return folder, run


def trainings(folder: Path) -> list[psutil.Process]:
    """The processes that train in a run's folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if (process.info["cmdline"] or [])[1:3] == ["-m", "carpose.train"]
        and process.info["cwd"] == str(folder)
    ]
