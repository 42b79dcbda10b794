import logging
import os

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from carpose.core.durations import duration, estimate
from carpose.forecast.progress import Job, Progress, seconds_left

NAN = float("nan")


def training(model="dla34", epochs=10, log="train.log", **more):
    return Job("train", f"train round0/{model}/fold0", model, epochs, log, more.pop("earlier", NAN), **more)


@pytest.mark.parametrize(
    ("seconds", "text", "rough"),
    [
        (0.4, "0 s", "10 s"),
        (44, "44 s", "40 s"),
        (100, "1 min 40 s", "2 min"),
        (120, "2 min", "2 min"),
        (3599, "1 h", "1 h"),
        (12_000, "3 h 20 min", "3 h 20 min"),
    ],
)
def test_durations(seconds, text, rough):
    assert duration(seconds) == text and estimate(seconds) == rough


def test_a_training_takes_as_long_per_epoch_as_those_of_its_model():
    jobs = [training(start=0, took=50), training("hourglass", start=0, took=100), training(epochs=4)]
    assert seconds_left(jobs, 100) == (4 * 5, True)
    jobs[2] = training("efficientnet", epochs=4)  # of a model without a measured training: the mean
    assert seconds_left(jobs, 100) == (4 * 7.5, True)


def test_jobs_that_run_beside_each_other_share_the_time():
    jobs = [
        training(start=0, took=50),
        *(training(start=50) for _ in range(2)),
        *(training() for _ in range(4)),
    ]
    assert seconds_left(jobs, 60) == ((2 * 40 + 4 * 50) / 2, True)
    assert seconds_left(jobs[:2], 60)[0] == 40
    assert seconds_left([*jobs[:3], training(epochs=40)], 60)[0] == 200  # the longest alone


def test_a_running_training_is_read_from_its_log(tmp_path):
    log = tmp_path / "train.log"
    before = "[a] computing on cpu\n" + "".join(
        f"[a] epoch {i}/10  lr 0.1  seconds 99\n" for i in range(1, 11)
    )
    log.write_text(before)
    job = training(log=str(log), start=os.stat(log).st_mtime + 1)
    assert seconds_left([job], job.start) == (0, False)  # the log is of an earlier run
    log.write_text(
        f"{before}[a] computing on cpu\n[a] epoch 4/10  2 min left  lr 0.1  seconds 20  cpu_seconds 9\n"
    )
    job.start -= 2
    assert seconds_left([job], job.start + 20) == (6 * 20, True)


def test_a_stage_that_was_never_measured_is_said_to_take_longer():
    jobs = [training(start=0, took=50), training(epochs=1), Job("predict", "predict", "dla34", 1, "log", NAN)]
    assert seconds_left(jobs, 50) == (5, False)
    jobs[2] = Job("predict", "predict", "dla34", 1, "log", earlier=30)
    assert seconds_left(jobs, 50) == (35, True)


def test_lines(monkeypatch):
    lines, now = [], 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    jobs = {
        7: training(log="x"),
        8: training("hourglass", log="x"),
        0: Job("submission", "submission", "", 1, "", NAN),
    }
    progress = Progress(jobs, lines.append)
    assert progress.plan() == "progress: 3 jobs to do"

    def log(**fields):
        progress.handle(logging.makeLogRecord(fields))

    log(event=LogEvent.JOB_STARTED, jobs=[7])
    now += 130
    log(event=LogEvent.JOB_FINISHED, job_id=7)
    log(event=LogEvent.JOB_FINISHED, job_id=99)  # not of this plan
    log(msg="Select jobs to execute...")
    took = "train round0/dla34/fold0 took 2 min 10 s"
    assert lines == [f"progress: 1 of 3 jobs done after 2 min 10 s; about 2 min left; {took}"]


def test_a_fault_in_it_does_not_end_the_run(monkeypatch, capsys):
    def fail(line):
        raise RuntimeError

    progress = Progress({1: training(log="x", start=0)}, fail)
    progress.handle(logging.makeLogRecord({"event": LogEvent.JOB_FINISHED, "job_id": 1}))
    assert "RuntimeError" in capsys.readouterr().err
