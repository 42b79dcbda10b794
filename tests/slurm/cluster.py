"""A real Slurm of one node on this machine, for tests: munged, slurmctld and slurmd, with pretended GPUs.

Everything lies in one temporary folder, but for two links, /etc/slurm/slurm.conf and gres.conf: Slurm's
commands inside a job look nowhere else. A machine that has a configuration of its own is left alone.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

PREFIX = "carpose-slurm-"
SETTINGS = Path("/etc/slurm")
LINKS = ("slurm.conf", "gres.conf")
DAEMONS = ("slurmctld", "slurmd", "munged")

SLURM_CONF = """
ClusterName=carpose
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
# A node that does not answer for so long is down, and its jobs go back to the queue.
SlurmdTimeout=30
# Finished jobs are remembered for the whole test: it asks when they ran.
MinJobAge=3600
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=5
# The node may claim more cores than this machine has.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 SocketsPerBoard=1 CoresPerSocket=8 RealMemory=16000 Gres=gpu:{gpus}
PartitionName=main Nodes={host} Default=YES MaxTime=24:00:00 State=UP
"""


class Cluster:
    """Start and stop Slurm, and what a test asks of it. A context manager."""

    def __init__(self, gpus: int = 1):
        self.gpus = gpus
        self.host = socket.gethostname().split(".")[0]
        self.daemons: list[subprocess.Popen] = []

    @staticmethod
    def why_not() -> str | None:
        """Why no cluster can be started here, or None."""
        remove_leftovers()
        missing = [name for name in (*DAEMONS, "sbatch", "srun", "squeue") if not shutil.which(name)]
        if os.getuid() != 0:
            return "only root can start Slurm"
        if missing:
            return f"not installed: {', '.join(missing)}; Debian: apt-get install slurm-wlm munge"
        if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
            return "snakemake-executor-plugin-slurm is not installed; use: make test-slurm"
        theirs = [str(SETTINGS / name) for name in LINKS if os.path.lexists(SETTINGS / name)]
        if theirs:
            return f"this machine has a Slurm of its own ({', '.join(theirs)}), which is not touched"
        return None

    def __enter__(self) -> "Cluster":
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        devices = ["/dev/null", "/dev/zero", "/dev/full"][: self.gpus]  # any device file passes for a GPU
        gres = [f"NodeName={self.host} Name=gpu File={device}" for device in devices]
        self._configure("gres.conf", "\n".join(["AutoDetect=off", *gres, ""]))
        text = SLURM_CONF.format(host=self.host, folder=self.folder, gpus=self.gpus, ports=free_ports(2))
        self._configure("slurm.conf", text)
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        places = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munge.pid",
        }
        places |= {"log-file": self.folder / "munge.log", "seed-file": self.folder / "munge.seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in places.items()))
        wait_for(places["socket"].exists, 10, "munged's socket")
        self._daemon("slurmctld", "-D")
        self.start_slurmd()
        wait_for(lambda: self.node_state() == "idle", 30, "the node to be idle", self.logs)

    def start_slurmd(self, *options: str) -> None:
        self.slurmd = self._daemon("slurmd", "-D", "-N", self.host, *options)

    def lose_node(self) -> None:
        """slurmd and all that it has started are gone at once, as without power; then the node comes back."""
        daemon = psutil.Process(self.slurmd.pid)
        jobs = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "slurmstepd"]
        everything = [child for process in (daemon, *jobs) for child in (process, *process.children(True))]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(everything, 10)
        assert not alive, alive
        wait_for(lambda: self.node_state() == "down", 120, "the node to be down", self.logs)
        self.start_slurmd("-b")

    def cancel_jobs(self) -> None:
        """What docs/cluster.md says to do where a killed Snakemake left jobs."""
        call("scancel", "--me")
        wait_for(lambda: not self.jobs(active=True), 60, "cancelled jobs to end", self.logs)

    def __exit__(self, *_) -> None:
        with contextlib.suppress(AssertionError, OSError):
            call("scancel", "--user=root", check=False)
            wait_for(lambda: not self.jobs(active=True), 20, "cancelled jobs to end")
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        remove_links()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (SETTINGS / name).symlink_to(self.folder / name)

    def _daemon(self, name: str, *options: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.out", "ab") as log:
            process = subprocess.Popen([name, *options], stdout=log, stderr=log, start_new_session=True)
        self.daemons.append(process)
        with open(self.folder / "daemons", "a", encoding="utf-8") as file:
            print(process.pid, name, file=file)
        return process

    def logs(self) -> str:
        """The ends of the daemons' logs, for a failing test."""
        return "\n".join(f"{path}:\n{path.read_text()[-500:]}" for path in sorted(self.folder.glob("*.out")))

    def node_state(self) -> str:
        return call("sinfo", "--noheader", "--format=%T", check=False).strip().rstrip("*")

    def jobs(self, rule: str = "", active: bool = False) -> list[dict[str, str]]:
        """The jobs Slurm knows, oldest first, as `scontrol show job` tells of them; of one rule, or all."""
        text = call("scontrol", "--oneliner", "--details", "show", "job", check=False)
        found = [dict(_pairs(line)) for line in text.splitlines() if line.startswith("JobId=")]
        if active:
            found = [job for job in found if job["JobState"] in ("PENDING", "RUNNING", "COMPLETING")]
        return [job for job in found if rule in job.get("Comment", "")]


def _pairs(line: str) -> list[tuple[str, str]]:
    return [tuple(pair.split("=", 1)) for pair in line.split() if "=" in pair]


def call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    return done.stdout


def wait_for(condition, seconds: float, what: str, explain=lambda: ""):
    """The first true value of `condition()`; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}\n{explain()}"
        time.sleep(0.05)
    return value


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def remove_links() -> None:
    """Take away the two links, and only if they are a test's."""
    for name in LINKS:
        link = SETTINGS / name
        if link.is_symlink() and link.readlink().parent.name.startswith(PREFIX):
            link.unlink()


def remove_leftovers() -> None:
    """End the daemons and remove the files of a test that was killed before it could do so."""
    link = SETTINGS / LINKS[0]
    if not link.is_symlink() or not link.readlink().parent.name.startswith(PREFIX):
        return
    folder = link.readlink().parent
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "daemons").read_text().splitlines():
            pid, name = line.split()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name:
                    os.kill(int(pid), 9)
    remove_links()
    shutil.rmtree(folder, ignore_errors=True)
