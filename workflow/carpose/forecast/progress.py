"""How far a run is and how long it will still take: a line among Snakemake's own, whenever a job ends and
every few minutes.

    progress: 9 of 29 jobs done after 5 min; about 6 min left; train round0/dla34/fold0 took 1 min 42 s

The time left of a job is estimated from the jobs like it: the same model and stage (other folds and rounds),
else the same stage. Trainings are compared by seconds per epoch, and a running one is read from its log.
"""

import logging
import math
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from carpose.core.durations import duration, estimate

from .jobs import expected_seconds

# Lines of a training's log: its start, and the end of an epoch.
START, EPOCH = "] computing on ", re.compile(r"\] epoch (\d+)/.* seconds ([\d.]+)")
# A line every two minutes in a short run, every 5 % of the time in a long one.
MIN_INTERVAL, INTERVAL = 120.0, 0.05  # seconds; share of the time since the start
# Snakemake's own lines about the progress, which the lines here replace.
REPLACED = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}
SELECT = "Select jobs to execute..."


@dataclass
class Job:
    """A job of the run; times in seconds, as of time.time."""

    rule: str
    name: str  # the rule and what the job is for: train round0/dla34/fold1
    model: str  # "" for stages of no single model
    epochs: int  # 1 for other stages than training
    log: str
    earlier: float  # seconds of an earlier job like it; NaN where there is none
    start: float | None = None
    took: float | None = None

    def measured(self) -> tuple[float, int]:
        """Seconds per epoch of this job or of an earlier one like it (NaN: unknown), and the epochs that its
        log shows."""
        if self.took is not None:
            return self.took / self.epochs, self.epochs
        if logged := self._logged_epochs():
            return mean(seconds for _, seconds in logged), logged[-1][0]
        return self.earlier / self.epochs, 0

    def _logged_epochs(self) -> list[tuple[int, float]]:
        """Number and seconds of the epochs in the log of this training, since its last start."""
        log = Path(self.log)
        try:
            if self.start is None or log.stat().st_mtime < self.start:
                return []  # the log of an earlier run
            text = log.read_text(encoding="utf-8", errors="replace").rpartition(START)[2]
        except OSError:
            return []
        return [(int(epoch), float(seconds)) for epoch, seconds in EPOCH.findall(text)]


def seconds_left(jobs: Iterable[Job], now: float) -> tuple[float, bool]:
    """Estimated seconds until all jobs are done, and whether all were measured: if not, it takes longer."""
    measured = [(job, *job.measured()) for job in jobs]
    rates = defaultdict(list)
    for job, rate, _ in measured:
        if not math.isnan(rate):
            rates[job.rule, job.model].append(rate)
            rates[job.rule, ""].append(rate)
    running, work, longest, all_measured = 0, 0.0, 0.0, True
    for job, _, epochs_done in measured:
        if job.took is not None or not job.log:  # targets have no log and take no time
            continue
        running += job.start is not None
        rates_like_it = rates[job.rule, job.model] or rates[job.rule, ""]
        if not rates_like_it:
            all_measured = False
            continue
        elapsed = now - job.start if job.start is not None and not epochs_done else 0.0
        left = max(mean(rates_like_it) * (job.epochs - epochs_done) - elapsed, 0.0)
        work, longest = work + left, max(longest, left)
    return max(work / max(running, 1), longest), all_measured


class Progress(logging.Handler):
    """Prints the progress of Snakemake's run, from the events that it logs."""

    def __init__(self, jobs: dict[int, Job], print_line: Callable[[str], None]):
        """jobs: by Snakemake's number of the job."""
        super().__init__()
        self.jobs, self.print_line = jobs, print_line
        self.start = self.printed = time.time()

    def plan(self) -> str:
        return f"progress: {len(self.jobs)} jobs to do{self._left()}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._follow(record)
        except Exception:  # a line about the progress is no reason to end a run
            self.handleError(record)

    def _follow(self, record: logging.LogRecord) -> None:
        event, now = getattr(record, "event", None), time.time()
        if event == LogEvent.JOB_STARTED:
            for number in record.__dict__["jobs"]:
                if number in self.jobs:
                    self.jobs[number].start = now
        elif event == LogEvent.JOB_FINISHED:
            job = self.jobs.get(record.__dict__["job_id"])
            if job is not None and job.start is not None:
                job.took = now - job.start
                self._print(f"; {job.name} took {duration(job.took)}" if job.log else "")

    def _print(self, text: str = "") -> None:
        self.printed = time.time()
        done = sum(job.took is not None for job in self.jobs.values())
        after = duration(self.printed - self.start)
        self.print_line(f"progress: {done} of {len(self.jobs)} jobs done after {after}{self._left()}{text}")

    def _left(self) -> str:
        seconds, all_measured = seconds_left(self.jobs.values(), time.time())
        if not seconds:
            return ""
        return f"; {'about' if all_measured else 'more than'} {estimate(seconds)} left"

    def print_now_and_then(self) -> None:
        """Never returns: for a thread of its own."""
        while True:
            time.sleep(5)
            now = time.time()
            if now - self.printed > max(MIN_INTERVAL, INTERVAL * (now - self.start)):
                self._print()


def _is_not_replaced(record: logging.LogRecord) -> bool:
    return getattr(record, "event", None) not in REPLACED and record.getMessage() != SELECT


def jobs_of(workflow: Any, epochs_of: Callable[[Any], int]) -> dict[int, Job]:
    """The jobs of a run by Snakemake's number; for the arguments see show_progress."""
    jobs = {}
    for job in workflow.dag.needrun_jobs():
        parts = (f"{'' if key == 'model' else key}{value}" for key, value in job.wildcards_dict.items())
        jobs[job.jobid] = Job(
            rule=job.rule.name,
            name=f"{job.rule.name} {'/'.join(parts)}".strip(),
            model=job.wildcards_dict.get("model", ""),
            epochs=epochs_of(job.wildcards) if job.rule.name == "train" else 1,
            log=str(job.log[0]) if job.log else "",
            earlier=expected_seconds(str(job.benchmark), rounds=False) if job.benchmark else float("nan"),
        )
    return jobs


def show_progress(workflow: Any, epochs_of: Callable[[Any], int]) -> None:
    """Show the progress of this run of Snakemake; to be called when it starts.

    workflow: Snakemake's; epochs_of: wildcards of a training → its epochs. With `--quiet rules`, Snakemake's
    own lines about the progress are left out. (With `--quiet progress` it would log no events.)
    """
    try:
        progress = Progress(
            jobs_of(workflow, epochs_of), lambda line: print(line, file=sys.stderr, flush=True)
        )
        progress.print_line(progress.plan())
        if Quietness.RULES in (workflow.output_settings.quiet or ()):
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(_is_not_replaced)
        logger.addHandler(progress)
        threading.Thread(target=progress.print_now_and_then, daemon=True).start()
    except Exception as error:  # another version of Snakemake
        print(f"note: the progress cannot be shown: {error!r}", file=sys.stderr)
