"""A run that stops at a set time (`running.stop_after_minutes`) and is continued by the same command."""

import os
import threading
import time
from pathlib import Path
from typing import Any

VARIABLE = "CARPOSE_STOP_AT"  # of the environment


def stop_time(minutes: float, is_main_process: bool) -> float:
    """When the run stops, as Unix time; 0: never.

    The minutes are counted from the start of Snakemake (the main process). Those that an executor starts for
    single jobs, also on other machines, take the time from their environment, however long the jobs were
    queued.
    """
    stop_at = time.time() + 60 * minutes if minutes else 0.0
    if is_main_process:
        os.environ[VARIABLE] = str(stop_at)
    return float(os.environ.get(VARIABLE, stop_at))


def stop_later(workflow: Any, stop_at: float) -> None:
    """Let Snakemake start no job after this time. Others are finished; trainings stop by themselves."""
    timer = threading.Timer(max(stop_at - time.time(), 0), lambda: workflow.scheduler.exit_gracefully())
    timer.daemon = True
    timer.start()


def was_stopped(workflow: Any, stop_at: float) -> bool:
    """Whether jobs are left only because the time has come: none failed but trainings with a saved state."""
    return time.time() >= stop_at > 0 and all(
        not job.is_group() and job.rule.name == "train" and Path(job.params.state).exists()
        for job in workflow.scheduler.failed
    )
