"""The workflow on a real Slurm with one GPU: as planned, and when jobs and the node are taken away.

Starting daemons is nothing a test should do unasked, so these run only with CARPOSE_SLURM_TESTS=1
(`make test-slurm`), as root, where Debian's slurm-wlm and munge are installed and no other Slurm is.
"""

import itertools
import re
import time
from pathlib import Path

import pytest

from tests.slurm import runs
from tests.slurm.cluster import Cluster, call, wait_for
from tests.slurm.runs import PROFILE, WORKFLOW, snakemake

pytestmark = runs.ONLY_ON_REQUEST


@pytest.fixture(scope="module")
def cluster():
    if reason := Cluster.why_not():
        pytest.skip(reason)
    with Cluster(gpus=1) as started:
        yield started


@pytest.fixture(scope="module")
def reference(cluster):
    """The same run on this machine alone."""
    return runs.reference()


@pytest.fixture(scope="module")
def toy(cluster, reference, tmp_path_factory):
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
        return (self.folder / "run.log").read_text()[-4000:] + self.cluster.logs()

    def attempts_of(self, name: str) -> list[dict[str, str]]:
        """All attempts of a training, oldest first."""
        wildcards = re.sub(r"round(\d+)/(\w+)/fold(\d+)", r"\1_\2_\3", name)
        return [job for job in self.cluster.jobs() if job["Comment"] == f"rule_train_wildcards_{wildcards}"]

    def log_of(self, name: str) -> str:
        """What all attempts of a training printed; the rule's own log begins anew with each."""
        files = [Path(job["StdOut"]) for job in self.attempts_of(name)]
        return "".join(file.read_text() for file in files if file.exists())

    def freeze_a_training(self) -> str:
        """Stop the process of a training past its first epoch and left in peace so far; its name."""

        def frozen():
            assert self.run.poll() is None, f"the run has ended\n{self.explain()}"
            for process in runs.trainings(self.folder):
                command = process.info["cmdline"]
                name = command[command.index("--name") + 1]
                if name not in self.disturbed.values() and "epoch 1/" in self.log_of(name):
                    process.suspend()
                    return name
            return None

        return wait_for(frozen, 120, "a training in its second epoch", self.explain)

    def wait_for_state(self, name: str, state: str, seconds: float) -> None:
        wait_for(
            lambda: self.attempts_of(name)[0]["JobState"] == state,
            seconds,
            f"{state} of {name}",
            self.explain,
        )


@pytest.fixture(scope="module")
def story(request, cluster, toy, tmp_path_factory):
    tale = Story(cluster, tmp_path_factory.mktemp("story"))
    request.addfinalizer(tale.run.terminate)

    # scancel in the middle of a training: Slurm wakes the process up, and asks it to leave.
    name = tale.disturbed["cancelled"] = tale.freeze_a_training()
    call("scancel", tale.attempts_of(name)[0]["JobId"])
    tale.wait_for_state(name, "CANCELLED", 60)

    # A training that hangs until its time is over (Slurm looks every half minute), on a node being drained:
    # what runs may end, what waits goes on waiting until the node is back.
    name = tale.disturbed["late"] = tale.freeze_a_training()
    wait_for(lambda: waiting(cluster), 90, "the cancelled training to be submitted again", tale.explain)
    call("scontrol", "update", f"NodeName={cluster.host}", "State=DRAIN", "Reason=test")
    call("scontrol", "update", f"JobId={tale.attempts_of(name)[0]['JobId']}", "TimeLimit=1")
    tale.wait_for_state(name, "TIMEOUT", 180)
    wait_for(lambda: cluster.node_state() == "drained", 60, "the node to be drained", tale.explain)
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
    for round_, fold in itertools.product((0, 1), (0, 1)):
        name = f"round{round_}/dla34/fold{fold}"
        epochs = re.findall(r"\] epoch (\d+)/", story.log_of(name))
        assert epochs == [str(1 + epoch) for epoch in range((8, 2)[round_])], name


@pytest.mark.parametrize("disturbance, state", [("cancelled", "CANCELLED"), ("late", "TIMEOUT")])
def test_a_training_taken_away_goes_on(story, disturbance, state):
    name = story.disturbed[disturbance]
    first, second = story.attempts_of(name)
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
    kinds = [Path(job["StdOut"]).parts[-2] for job in cluster.jobs() if f"{story.folder}/" in job["StdOut"]]
    groups = [kind.removeprefix("group_").split("_")[0] for kind in kinds if kind.startswith("group_")]
    assert sorted(groups) == ["finish", "prepare"]
