"""Kill a small run again and again, and compare what it ends with.

    python -m benchmarks.kills --folder kills --runs 60      # goes on where it was interrupted
    python -m benchmarks.kills --folder kills --summary
    python -m benchmarks.kills --folder slurm --runs 10 --slurm   # as root, with the Python of .venv-slurm

Each run is the tests' configuration with one model, to the evaluation. One of four starts with rendering
the photos, the others have the image cache of the first run. While it runs, one to three faults hit it:
SIGKILL or SIGTERM of a random process, SIGKILL of all of them, a full disk, or a file that is damaged
between two starts. After each, the same command is started again, with what the documentation tells the
user to type, until the run ends. Then every result is compared with that of a run that nothing disturbed.
FOLDER/kills.jsonl gets a line per run. With --slurm the jobs of each run are those of a Slurm that is
started on this machine, and the faults are signals and the loss of Slurm's node with all that runs on it.
Linux only; the full disk needs root, because it is a tmpfs; without it that fault is left out.

Moments are drawn in seconds of CPU time, so that they do not depend on what else the machine does.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd

from carpose.core.version import code_digest
from tests.slurm.cluster import Cluster

from .faults import KINDS, SIGNALS, SLURM_KINDS, damage, fill_disk, hit_process
from .run import RESULTS, Run

PREPARED = [str(RESULTS / "cache" / "cache.json"), str(RESULTS / "data" / "folds.parquet")]
TARGETS = [str(RESULTS / "submission.csv"), str(RESULTS / "evaluation.csv")]
DISK = "64m"  # of the tmpfs; a run needs 20
MAX_STARTS = 20
ADVICE = re.compile(r"error: (\S+?): .*delete it, and", re.M)


def undisturbed(folder: Path, cluster: Cluster | None, targets: list[str]) -> float:
    """Make the targets; CPU seconds."""
    run = Run(folder, workers=0, cluster=cluster)
    process = run.start(targets)
    run.wait(process, float("inf"))
    if process.returncode:
        raise SystemExit(f"{run.log}: the run that nothing disturbs failed\n{run.tail()}")
    return sum(run.used.values())


def prepare(folder: Path, cluster: Cluster | None) -> dict:
    """The run that nothing disturbs: FOLDER/prepared up to the cache, FOLDER/base to its end; CPU seconds."""
    about = folder / "base.json"
    if not about.exists():
        for name in ("prepared", "base"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "prepared").mkdir(parents=True)
        cache = undisturbed(folder / "prepared", cluster, PREPARED)
        shutil.copytree(folder / "prepared", folder / "base")
        rest = undisturbed(folder / "base", cluster, TARGETS)
        about.write_text(json.dumps({"cache": cache, "rest": rest, "code": code_digest()}), encoding="utf-8")
    base = json.loads(about.read_text(encoding="utf-8"))
    if base["code"] != code_digest():
        raise SystemExit(f"{folder}: was begun with other code; name another folder")
    return base


def disturbed(folder: Path, cluster: Cluster | None, base: dict, number: int, seed: int) -> dict:
    """One run with its faults; what is recorded about it."""
    rng = random.Random(f"{seed} {number}")
    run = Run(folder / "run", workers=rng.choice([0, 1]), cluster=cluster)
    begin_folder(run, folder / "prepared" if rng.random() < 0.75 else None)
    from_cache = (run.folder / RESULTS).exists()
    expected = base["rest"] + (0 if from_cache else base["cache"])
    run.record |= {"run": number, "from_cache": from_cache, "workers": run.workers, "base_cpu": expected}
    pending = [rng.choice(SLURM_KINDS if cluster else KINDS) for _ in range(rng.randint(1, 3))]
    run.record["faults"], begin = [], time.monotonic()
    unexpected = 0
    while True:
        since = run.log.stat().st_size
        process = run.start(TARGETS)
        faults = len(run.record["faults"])
        while pending and process.poll() is None:
            strike(run, process, pending, expected, rng)
            if not cluster:  # where jobs that fail are not started again
                break
        run.wait(process, float("inf"))
        text = run.log.read_bytes()[since:].decode(errors="replace")
        if process.returncode == 0 and not pending:
            break
        if process.returncode == 0:  # it ended before the fault
            run.record["not reached"] = pending
            break
        if "Traceback (most recent call last)" in text:
            run.record.setdefault("tracebacks", []).append(text[text.index("Traceback (most") :][:3000])
        healed = follow_advice(run, text)
        if not healed and len(run.record["faults"]) == faults:
            unexpected += 1
            run.record.setdefault("failures", []).append(text[-3000:])
        if cluster:
            cluster.cancel_jobs()
        if "cannot be locked" in text or locked(run):
            unlock = [*run.command([]), "--unlock"]
            subprocess.run(unlock, cwd=run.folder, capture_output=True)
        if run.record["starts"] >= MAX_STARTS or unexpected >= 4:
            run.record["given up"] = True
            break
    used = run.cpu()
    run.kill_all()
    run.record |= {"cpu_seconds": round(used, 1), "seconds": round(time.monotonic() - begin, 1)}
    run.record |= compare(run, folder / "base")
    if not run.record["equal"]:
        kept = folder / f"different-{number}"
        shutil.copytree(run.folder, kept, dirs_exist_ok=True)
        shutil.copy(run.log, kept / "run.log")
    return run.record


def begin_folder(run: Run, prepared: Path | None) -> None:
    """An empty folder on a small disk of its own, if that can be mounted, with the files of `prepared`."""
    subprocess.run(["umount", str(run.folder)], capture_output=True)  # of an interrupted campaign
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(run.folder)]
    run.record["small disk"] = subprocess.run(mount, capture_output=True).returncode == 0
    run.log.write_bytes(b"")
    if prepared:
        shutil.copytree(prepared, run.folder, dirs_exist_ok=True)


def strike(
    run: Run, process: subprocess.Popen, pending: list[str], expected: float, rng: random.Random
) -> None:
    """The next fault, at a random moment of this start."""
    kind = pending[0]
    at = run.cpu() + rng.uniform(0, expected / len(pending))
    if run.wait(process, at):
        return
    if kind == "full disk":
        fault = fill_disk(run, process, rng) if run.record["small disk"] else None
    elif kind in SIGNALS:
        fault = hit_process(run, kind, rng)
    elif kind == "Slurm node":
        run.cluster.lose_node()
        fault = {"kind": kind}
    else:
        run.kill_all()
        fault = damage(run, rng) if kind == "damaged file" else None
        fault = fault or {"kind": "SIGKILL of all"}
    pending.pop(0)
    if fault:
        run.record["faults"].append(fault | {"cpu": round(at, 1)})


def follow_advice(run: Run, text: str) -> bool:
    """Delete the files that messages say to delete; whether there were any."""
    names = sorted(set(ADVICE.findall(text)))
    for name in names:
        path = run.folder / name
        run.record.setdefault("deleted as advised", []).append(name)
        path.unlink(missing_ok=True)
    return bool(names)


def locked(run: Run) -> bool:
    """Whether a killed Snakemake left its lock."""
    return any((run.folder / ".snakemake" / "locks").glob("*"))


def content(path: Path) -> bytes:
    """The bytes of a result; of a history without its times."""
    if path.name == "history.csv":
        table = pd.read_csv(path)
        return table.drop(columns=["seconds", "cpu_seconds"]).to_csv().encode()
    return path.read_bytes()


def files_of(folder: Path) -> set[Path]:
    """The results to compare: all but logs, times of jobs and the configuration, whose `running` differs."""
    results = folder / RESULTS
    paths = {path.relative_to(results) for path in results.rglob("*") if path.is_file()}
    return {path for path in paths if path.parts[0] not in ("logs", "benchmarks", "config.json")}


def compare(run: Run, base: Path) -> dict:
    """Which results differ. A checkpoint that is still damaged is harmless: only its padding may be, see the
    tests of carpose.network.checkpoint."""
    expected, there = files_of(base), files_of(run.folder)
    damaged = {fault.get("file") for fault in run.record["faults"]}
    different, harmless = [], []
    for path in sorted(expected):
        if path in there and content(run.folder / RESULTS / path) == content(base / RESULTS / path):
            continue
        padding = path in there and str(RESULTS / path) in damaged and path.name == "model.pt"
        (harmless if padding else different).append(str(path))
    result = {"equal": not different, "files": len(expected)}
    extra = {"different": different, "harmless": harmless, "left over": sorted(map(str, there - expected))}
    return result | {key: value for key, value in extra.items() if value}


def campaign(folder: Path, cluster: Cluster | None, runs: int, seed: int) -> None:
    """Go on until there are so many runs."""
    base = prepare(folder, cluster)
    log = folder / "kills.jsonl"
    log.touch()
    while (number := len(log.read_text(encoding="utf-8").splitlines())) < runs:
        record = disturbed(folder, cluster, base, number, seed)
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        print(f"run {number}: {'equal' if record['equal'] else 'DIFFERENT'}", flush=True)
    subprocess.run(["umount", str(folder / "run")], capture_output=True)


def summary(folder: Path) -> str:
    """A table of all runs so far, as text."""
    lines = (
        (folder / "kills.jsonl").read_text(encoding="utf-8").splitlines()
        if (folder / "kills.jsonl").exists()
        else []
    )
    runs = [json.loads(line) for line in lines]
    if not runs:
        return "no run has ended yet"
    counts: dict[str, list[int]] = {}
    for run in runs:
        for fault in run["faults"]:
            name = ", ".join(filter(None, [fault["kind"], fault.get("target")]))
            if "how" in fault:
                name += f", {fault['how']}"
            count = counts.setdefault(name, [0, 0])
            count[0] += 1
            count[1] += run["equal"]
    equal = sum(run["equal"] for run in runs)
    used, needed = (sum(run[key] for run in runs) for key in ("cpu_seconds", "base_cpu"))
    text = [f"{'fault':45} times  in runs that ended with equal bytes"]
    text += [f"{name:45} {times:5}  {good:5}" for name, (times, good) in sorted(counts.items())]
    total = sum(times for times, _ in counts.values())
    starts = sum(run["starts"] for run in runs)
    text += [f"{len(runs)} runs, {total} faults, {starts} starts; {equal} runs with equal bytes"]
    text += [f"goodput (CPU seconds of an undisturbed run / those used): {needed / used:.2f}"]
    for key in ("tracebacks", "failures", "hangs", "given up", "harmless", "left over", "deleted as advised"):
        numbers = [run["run"] for run in runs if run.get(key)]
        if numbers:
            text.append(f"{key}: {len(numbers)} runs ({', '.join(map(str, numbers))})")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the runs and their log kills.jsonl")
    parser.add_argument("--runs", type=int, default=60, help="runs altogether")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slurm", action="store_true", help="on a Slurm that is started on this machine")
    parser.add_argument("--summary", action="store_true", help="only print what came of it so far")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not args.summary:
        if args.slurm and (reason := Cluster.why_not()):
            raise SystemExit(f"error: {reason}")
        with Cluster(gpus=2) if args.slurm else contextlib.nullcontext() as cluster:
            campaign(folder, cluster, args.runs, args.seed)
    print(summary(folder))


if __name__ == "__main__":
    main()
