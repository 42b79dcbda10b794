"""What the workflow itself costs: planning 45 trainings, Snakemake's share of a run, the starts of processes.

The shares are read off the log that Snakemake keeps of each run in .snakemake/log.

    python -m benchmarks.workflow --log .snakemake/log/LATEST.snakemake.log
"""

import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks import measure

# What each rule's program is; the targets that only collect have none.
PROGRAM = {
    "demo_data": "synth",
    "check_data": "kaggle",
    "split_folds": "data",
    "build_cache": "data",
    "train": "train",
    "predict": "predict",
    "make_pseudo_labels": "pseudo",
    "fit_fusion": "fuse.fit",
    "fuse": "fuse",
    "write_submission": "kaggle",
    "evaluate": "evaluation",
    "draw": "plots",
}
STAGES = dict.fromkeys([*PROGRAM.values(), "metric"])


def processor_seconds(command: list[str], **kwargs) -> float:
    """What a program and its children computed: wall seconds depend on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=measure.environment(), **kwargs)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plan(repeats: int = 3, folds: int = 5, rounds: int = 3) -> dict:
    """`snakemake -n` of 3 models on so many folds in so many rounds."""
    command = [sys.executable, "-m", "snakemake", "-n", "submission", "--cores", "4"]
    command += ["--config", f"rounds={rounds}", "run=benchmark", f'folds={{"count": {folds}}}']
    with tempfile.TemporaryDirectory() as folder:
        command += ["--directory", folder, "--snakefile", str(measure.ROOT / "Snakefile")]
        walls, processor = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            processor.append(processor_seconds(command))
            walls.append(time.perf_counter() - start)
        seen = subprocess.run(command, capture_output=True, text=True, env=measure.environment())
        imported = subprocess.run(
            [sys.executable, "-X", "importtime", *command[1:]],
            capture_output=True,
            text=True,
            env=measure.environment(),
        )
    trainings = re.search(r"^train\s+(\d+)", seen.stdout, re.M)
    return {
        "trainings": int(trainings[1]),
        "wall s": round(statistics.median(walls), 2),
        "processor s": round(statistics.median(processor), 2),
        "torch is imported": bool(re.search(r"\|\s+torch$", imported.stderr, re.M)),
    }


def starts() -> dict[str, float]:
    """Processor seconds that each stage's program takes to start."""
    command = [sys.executable, "-m"]
    for stage in STAGES:  # once, so that all files are in memory
        processor_seconds([*command, f"carpose.{stage}", "--help"])
    return {stage: round(processor_seconds([*command, f"carpose.{stage}", "--help"]), 2) for stage in STAGES}


def read_log(path: Path) -> list[tuple[str, float, float]]:
    """(rule, start, end) in seconds of every job of a run."""
    now, rule, running, jobs = 0.0, "", {}, []
    for line in path.read_text().splitlines():
        if stamp := re.match(r"\[(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]", line):
            now = datetime.strptime(stamp[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif begun := re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", line):
            rule = begun[1]
        elif number := re.match(r"    jobid: (\d+)", line):
            running[number[1]] = rule, now
        elif ended := re.match(r"Finished jobid: (\d+)", line):
            jobs.append((*running.pop(ended[1]), now))
    return jobs


def shares(path: Path, start_seconds: dict[str, float]) -> dict:
    """How long no job ran, and what starting the programs took of all jobs' time."""
    jobs = [job for job in read_log(path) if job[0] in PROGRAM]
    begin, end = min(job[1] for job in jobs), max(job[2] for job in jobs)
    busy, until = 0.0, begin
    for _, start, finish in sorted(jobs, key=lambda job: job[1]):
        busy += max(0.0, finish - max(start, until))
        until = max(until, finish)
    spent = sum(finish - start for _, start, finish in jobs)
    starting = sum(start_seconds[PROGRAM[rule]] for rule, _, _ in jobs)
    return {
        "jobs": len(jobs),
        "wall s, first job to last": end - begin,
        "no job running, share of the wall": round(1 - busy / (end - begin), 4),
        "all jobs s": spent,
        "starts of programs, share of all jobs": round(starting / spent, 4),
    }


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="Snakemake's log of a whole run")
    args = parser.parse_args()
    figures = {"plan of 45 trainings": plan(), "start of each program, processor s": starts()}
    if args.log:
        figures["run"] = shares(args.log, figures["start of each program, processor s"])
    measure.finish(args.output, figures)


if __name__ == "__main__":
    main()
