"""A run in a folder: its command, its processes, and waiting until it ends or has used some CPU time."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.runs import ENVIRONMENT, PROFILE

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/ci")
CONFIG = ['models={"hourglass": null}', 'train={"epochs": 4}']
SILENT_SECONDS = 1800  # without any CPU time: a hang


@dataclass
class Process:
    """A process of the run: its id, what it is, and the CPU seconds that it has used."""

    pid: int
    role: str
    cpu: float


@dataclass
class Run:
    """One run in its folder, and what is written about it."""

    folder: Path
    workers: int
    record: dict = field(default_factory=dict)
    cluster: Cluster | None = None  # a Slurm, else this machine alone
    used: dict = field(default_factory=dict)  # CPU seconds by process

    def command(self, targets: list[str]) -> list[str]:
        snakemake = [sys.executable, "-P", "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
        snakemake += PROFILE if self.cluster else ["--cores", "2"]
        running = f'running={{"save_minutes": 0, "workers": {self.workers}}}'
        settings = ["--configfile", str(ROOT / "configs" / "ci.yaml"), "--config", *CONFIG, running]
        return [*snakemake, *targets, *settings]

    def start(self, targets: list[str]) -> subprocess.Popen:
        self.record["starts"] = self.record.get("starts", 0) + 1
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                self.command(targets),
                **{"cwd": self.folder, "env": ENVIRONMENT, "stdout": log, "stderr": log},
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """What all starts printed; beside the folder, whose disk gets full."""
        return self.folder.with_suffix(".log")

    def processes(self) -> list[Process]:
        """All processes that work in the folder, also those whose Snakemake is gone."""
        commands, parents, seconds = {}, {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(path / "cwd") != str(self.folder):
                    continue
                pid = int(path.name)
                commands[pid] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                words = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                parents[pid] = int(words[1])
                seconds[pid] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
                self.used[pid, words[19]] = seconds[pid]
        return [
            Process(pid, role(command, commands.get(parents[pid], "")), seconds[pid])
            for pid, command in commands.items()
            if command
        ]

    def cpu(self) -> float:
        """CPU seconds of all processes so far."""
        self.processes()
        return sum(self.used.values())

    def wait(self, process: subprocess.Popen, until: float) -> bool:
        """Wait until the command ends (→ True) or the CPU seconds are used. What hangs is killed."""
        last, since = -1.0, time.monotonic()
        while process.poll() is None:
            used = self.cpu()
            if used >= until:
                return False
            if used > last + 0.05:
                last, since = used, time.monotonic()
            if time.monotonic() - since > SILENT_SECONDS:
                self.record.setdefault("hangs", []).append(self.tail())
                self.kill_all()
            time.sleep(0.1)
        return True

    def tail(self, since: int = 0) -> str:
        return self.log.read_bytes()[since:].decode(errors="replace")[-1500:]

    def kill_all(self) -> None:
        """SIGKILL of everything, as when the machine loses its power (what was written stays)."""
        for _ in range(20):
            processes = self.processes()
            for process in processes:
                send(process.pid, "SIGKILL")
            if not processes:
                return
            time.sleep(0.2)


def role(command: str, parent: str) -> str:
    """What a process does, by its command line and that of its parent."""
    if "-m snakemake" in command:
        return "Snakemake of a job" if "--target-jobs" in command else "Snakemake"
    if match := re.match(r"\S*python\S* (?:-P )?-m carpose\.(\w+)", command):
        return match[1] + (" worker" if parent == command else "")
    if "multiprocessing" in command and (match := re.search(r"-m carpose\.(\w+)", parent)):
        return f"{match[1]} worker"
    return "shell"


def send(pid: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, getattr(signal, name))
