"""The workflow on a real Slurm with two GPUs, killed three times: a job, the node, Snakemake itself.

CARPOSE_SLURM_DEMO=1 takes the whole demo instead of the tests' configuration (about half an hour).
"""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers import REPOSITORY
from tests.slurm import runs
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.runs import PROFILE, snakemake

pytestmark = runs.ONLY_ON_REQUEST
DEMO = os.environ.get("CARPOSE_SLURM_DEMO") == "1"
RUN = "demo" if DEMO else "ci"
WORKFLOW = ["-s", str(REPOSITORY / "Snakefile"), "submission"] if DEMO else runs.WORKFLOW
PATIENCE = 3600 if DEMO else 400


class Disaster:
    """One run of the workflow and what befalls it. Kills come at random steps of trainings."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.random = random.Random(6)
        self.run = snakemake(folder, *WORKFLOW, *PROFILE)

    def explain(self) -> str:
        return (self.folder / "run.log").read_text()[-4000:] + self.cluster.logs()

    def a_training(self, round_: int) -> psutil.Process:
        """A training of this round that has just written a state and goes on."""

        def found():
            assert self.run.poll() is None, f"the run has ended\n{self.explain()}"
            for process in runs.trainings(self.folder):
                command = process.info["cmdline"]
                state = self.folder / command[command.index("--state") + 1]
                if f"round{round_}/" in str(state) and state.exists():
                    return process
            return None

        process = wait_for(found, PATIENCE, f"a training of round {round_}", self.explain)
        time.sleep(self.random.uniform(0, 3))
        return process

    def kill_a_job(self) -> None:
        self.a_training(0).kill()

    def cut_the_node_s_power(self) -> None:
        self.a_training(0)
        both = wait_for(
            lambda: len(found := runs.trainings(self.folder)) == 2 and found, 120, "two trainings"
        )
        self.devices = {process.environ()["CUDA_VISIBLE_DEVICES"] for process in both}
        self.cluster.lose_node()

    def kill_snakemake(self) -> None:
        """And what docs/cluster.md says to do after it."""
        self.a_training(1)
        self.run.send_signal(signal.SIGKILL)
        self.run.wait()
        self.cluster.cancel_jobs()
        assert snakemake(self.folder, *WORKFLOW, "--unlock").wait(60) == 0, self.explain()
        self.run = snakemake(self.folder, *WORKFLOW, *PROFILE)


@pytest.fixture(scope="module")
def disaster(tmp_path_factory):
    if reason := Cluster.why_not():
        pytest.skip(reason)
    times = [time.monotonic()]
    if DEMO:  # first and by itself: its time is asked for
        folder = tmp_path_factory.mktemp("reference")
        alone = snakemake(folder, *WORKFLOW, "--cores", "4")
        assert alone.wait(PATIENCE) == 0, (folder / "run.log").read_text()[-5000:]
    else:
        folder, alone = runs.reference()
    times.append(time.monotonic())
    with Cluster(gpus=2) as cluster:
        tale = Disaster(cluster, tmp_path_factory.mktemp("disaster"))
        try:
            for happens in (tale.kill_a_job, tale.cut_the_node_s_power, tale.kill_snakemake):
                happens()
            tale.status = tale.run.wait(PATIENCE)
        finally:
            tale.run.terminate()
        times.append(time.monotonic())
        print(f"without Slurm {times[1] - times[0]:.0f} s; killed thrice {times[2] - times[1]:.0f} s")
        assert alone.wait(PATIENCE) == 0, (folder / "run.log").read_text()[-5000:]
        tale.reference = folder / "results" / RUN
        tale.results = tale.folder / "results" / RUN
        yield tale


def test_submission_is_that_of_an_undisturbed_run(disaster):
    assert disaster.status == 0, disaster.explain()
    for file in ("submission.csv", "evaluation.csv"):
        assert (disaster.results / file).read_bytes() == (disaster.reference / file).read_bytes()


def test_two_trainings_ran_at_once_each_on_its_gpu(disaster):
    assert disaster.devices == {"0", "1"}


def test_the_jobs_of_the_lost_node_went_back_to_the_queue(disaster):
    assert any(int(job["Restarts"]) for job in disaster.cluster.jobs("rule_train"))
