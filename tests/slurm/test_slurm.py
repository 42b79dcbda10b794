"""The workflow on a real Slurm with one GPU: as planned, and when jobs and the node are taken away.

Starting daemons is nothing a test should do unasked, so these run only with CARPOSE_SLURM_TESTS=1
(`make test-slurm`), as root, where Debian's slurm-wlm and munge are installed and no other Slurm is.
"""

import itertools
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from cluster import Cluster, call, wait_for
from conftest import REPOSITORY

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.environ.get("CARPOSE_SLURM_TESTS") != "1",
        reason="starts a Slurm controller: set CARPOSE_SLURM_TESTS=1, or use `make test-slurm`",
    ),
]

PROFILE = [
    *("--profile", str(REPOSITORY / "workflow" / "profiles" / "slurm-noaccounting")),
    *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"),
]
# The tests' configuration with epochs enough to be interrupted between two of them.
WORKFLOW = [
    *("-s", str(REPOSITORY / "Snakefile"), "submission"),
    *("--configfile", str(REPOSITORY / "configs" / "ci.yaml")),
    *("--config", 'train={"epochs": 8, "retrain_epochs": 2}', 'models={"hourglass": null}'),
]


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake in `folder`, printing to run.log; its jobs find this interpreter as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with open(folder / "run.log", "wb") as log:
        command = [sys.executable, "-m", "snakemake", *arguments]
        return subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def cluster():
    if reason := Cluster.why_not():
        pytest.skip(reason)
    with Cluster(gpus=1) as started:
        yield started


@pytest.fixture(scope="module")
def toy(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    run = snakemake(folder, "-s", str(Path(__file__).with_name("toy.smk")), *PROFILE)
    assert run.wait(240) == 0, (folder / "run.log").read_text()[-5000:] + cluster.logs()
    return folder


def test_gpu_jobs_see_their_gpu_and_wait_for_each_other(cluster, toy):
    assert {(toy / f"device{n}").read_text() for n in (0, 1)} == {"device=0\n"}
    first, second = sorted(cluster.jobs("rule_see_gpu"), key=lambda job: job["StartTime"])
    assert first["EndTime"] <= second["StartTime"]


def test_attempts_are_bounded_and_ask_for_more_each_time(cluster, toy):
    """A rule's own `retries:` would multiply at the plugin's three levels; the profile's must not."""
    assert (toy / "attempts").read_text() == 3 * "device=none\n"
    asked = [(job["MinMemoryNode"], job["TimeLimit"]) for job in cluster.jobs("rule_fail_twice")]
    assert asked == [("100M", "00:05:00"), ("200M", "00:10:00"), ("300M", "00:15:00")]


class Story:
    """One run of the workflow on the cluster, and what is done to it on the way."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.run = snakemake(folder, *WORKFLOW, *PROFILE)
        self.disturbed: dict[str, str] = {}  # what was done: name of the training, such as round0/dla34/fold0

    def explain(self) -> str:
        return (self.folder / "run.log").read_text()[-5000:] + self.cluster.logs()

    def job_of(self, name: str) -> list[dict[str, str]]:
        """All attempts of a training, oldest first."""
        round_, model, fold = re.fullmatch(r"round(\d)/(\w+)/fold(\d+)", name).groups()
        jobs = self.cluster.jobs("rule_train")
        return [job for job in jobs if {round_, model, fold} <= set(job["Comment"].split("_"))]

    def log_of(self, name: str) -> str:
        file = self.folder / f"results/ci/logs/train/{name.replace('/', '-')}.log"
        return file.read_text() if file.exists() else ""

    def freeze_a_training(self) -> str:
        """Stop the process of a training past its first epoch and left in peace so far; its name."""

        def frozen():
            assert self.run.poll() is None, f"the run has ended\n{self.explain()}"
            for process in psutil.process_iter(["cmdline"]):
                command = process.info["cmdline"] or []
                if command[1:3] != ["-m", "carpose.train"]:
                    continue
                name = command[command.index("--name") + 1]
                ours = f"{self.folder}/" in f"{process.cwd()}/"
                if ours and name not in self.disturbed.values() and "epoch 1/" in self.log_of(name):
                    process.suspend()
                    return name
            return None

        return wait_for(frozen, 120, "a training in its second epoch", self.explain)

    def wait_for_state(self, name: str, state: str, seconds: float) -> None:
        wait_for(
            lambda: self.job_of(name)[0]["JobState"] == state, seconds, f"{state} of {name}", self.explain
        )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The same run on this machine alone, started early and left to itself."""
    folder = tmp_path_factory.mktemp("reference")
    return folder, snakemake(folder, *WORKFLOW, "--cores", "1")


@pytest.fixture(scope="module")
def story(cluster, toy, reference, tmp_path_factory):
    tale = Story(cluster, tmp_path_factory.mktemp("story"))

    # scancel in the middle of a training: Slurm wakes the process up, and asks it to leave.
    name = tale.disturbed["cancelled"] = tale.freeze_a_training()
    call("scancel", tale.job_of(name)[0]["JobId"])
    tale.wait_for_state(name, "CANCELLED", 60)

    # A training that hangs until its time is over; Slurm looks every half minute.
    name = tale.disturbed["late"] = tale.freeze_a_training()
    call("scontrol", "update", f"JobId={tale.job_of(name)[0]['JobId']}", "TimeLimit=1")
    tale.wait_for_state(name, "TIMEOUT", 180)

    # The node is drained: what runs ends, what waits goes on waiting until the node is back.
    wait_for(lambda: running(cluster) and waiting(cluster), 120, "one job running, one waiting", tale.explain)
    call("scontrol", "update", f"NodeName={cluster.host}", "State=DRAIN", "Reason=test")
    wait_for(lambda: cluster.node_state() == "drained", 120, "the node to be drained", tale.explain)
    time.sleep(6)  # three rounds of the scheduler
    tale.while_drained = (running(cluster), waiting(cluster))
    call("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")

    tale.status = tale.run.wait(360)
    return tale


def running(cluster) -> list[str]:
    return [job["JobId"] for job in cluster.jobs() if job["JobState"] in ("RUNNING", "COMPLETING")]


def waiting(cluster) -> list[str]:
    return [job["JobId"] for job in cluster.jobs() if job["JobState"] == "PENDING"]


def test_submission_is_the_same_as_without_a_cluster(story, reference):
    folder, run = reference
    assert run.wait(240) == 0, (folder / "run.log").read_text()[-5000:]
    assert story.status == 0, story.explain()
    for file in ("submission.csv", "evaluation.csv"):
        assert (story.folder / "results/ci" / file).read_bytes() == (
            folder / "results/ci" / file
        ).read_bytes()


def test_no_finished_epoch_is_trained_twice(story):
    logs = sorted((story.folder / "results/ci/logs/train").glob("*.log"))
    assert len(logs) == 4
    for log in logs:
        epochs = Counter(re.findall(r"\] (epoch \d+/\d+)", log.read_text()))
        assert len(epochs) == (8 if "round0" in log.name else 2)
        assert set(epochs.values()) == {1}, f"{log.name}: {epochs}"


@pytest.mark.parametrize("disturbance, state", [("cancelled", "CANCELLED"), ("late", "TIMEOUT")])
def test_a_training_taken_away_goes_on(story, disturbance, state):
    name = story.disturbed[disturbance]
    first, second = story.job_of(name)
    assert (first["JobState"], second["JobState"]) == (state, "COMPLETED")
    assert "stopped on request" in story.log_of(name) and "going on at epoch" in story.log_of(name)
    assert second["MinMemoryNode"] == "3000M" and second["TimeLimit"] == "00:20:00"


def test_jobs_wait_while_the_node_is_drained(story):
    ran, waited = story.while_drained
    assert not ran and waited


def test_no_two_jobs_had_the_gpu_at_once(story, cluster):
    spans = sorted((job["StartTime"], job["EndTime"]) for job in cluster.jobs() if "TresPerJob" in job)
    assert len(spans) >= 10
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_tiny_steps_share_a_job(story, cluster):
    comments = [job["Comment"] for job in cluster.jobs()]
    assert not [text for text in comments if "split_folds" in text or "write_submission" in text]
