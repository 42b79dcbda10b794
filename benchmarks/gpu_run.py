"""One command for configs/gpu_run.yaml on a GPU machine without a package registry, in a limited time.

It installs the wheels of packages that the machine lacks into a folder of their own, runs the workflow,
stops it when the time is over, and writes the figures to a folder: summary.md, the tables, report.html,
fusion.json and details.tar.gz. After a stop the same command continues. docs/lab/gpu_run.md explains it.

    python3 -m benchmarks.gpu_run --data DIR --wheels wheels --output figures
    python3 -m benchmarks.gpu_run --rehearse --output figures
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "gpu_run.yaml"
# A run of a minute or two on two cores: the same stages with small photos and small networks.
REHEARSAL = {
    "run": "gpu_run_rehearsal",
    "demo": {"train_images": 12, "test_images": 4, "scale": 0.15, "max_distance": 60},
    "cache": {"scale": 1.0},
    "train": {"input_width": 192, "input_height": 64, "neck_channels": 16, "batch_size": 3, "epochs": 2}
    | {"threads": 1},
    "models": {
        "efficientnet": {"width": 0.25},
        "dla34": {"width": 0.125},
        "hourglass": {"width": 0.125, "stacks": 1, "modules": 1, "batch_size": 3},
    },
    "running": {"workers": 0},
    "predict": {"threshold": 0.01},
    "resources": {stage: {"threads": 1, "mem_mb": 1000} for stage in ("train", "predict", "small")},
}  # fmt: skip
COPIED = ["evaluation.csv", "evaluation_bands.csv", "fusion.json", "report.html"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of train.csv, car_models_json and car_model_ids.csv; without it poses are sampled",
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels, see `make wheels`")
    parser.add_argument("--minutes", type=float, default=9.0, help="the workflow is stopped after this time")
    parser.add_argument("--rehearse", action="store_true", help="the same at a tiny size, for a CPU")
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys of the configuration to change, as for snakemake",
    )
    args = parser.parse_args()
    start = time.time()
    args.output.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if args.wheels:
        packages = install(args.wheels)
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join([str(packages), *inherited])
    config = overrides(args)
    status = run_workflow(config, environment, start + 60 * args.minutes, args.output / "gpu.csv")
    run = Path("results") / str(config.get("run", "gpu_run"))
    summary = summarise(run, args.output / "gpu.csv", start, status)
    print(summary)
    (args.output / "summary.md").write_text(summary, encoding="utf-8")
    collect(run, args.output)
    return int(status != "finished")


def install(wheels: Path) -> Path:
    """Install the wheels of packages that this machine lacks → the folder that holds them."""
    folder = Path(tempfile.gettempdir()) / f"carpose-packages-{os.getuid()}"
    lacking = [path for path in sorted(wheels.glob("*.whl")) if not is_installed(path.name.split("-")[0])]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(folder)]
    if lacking:
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, lacking)], check=True)
    return folder


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def overrides(args: argparse.Namespace) -> dict:
    """All keys that differ from the configuration file: the rehearsal's, the data's, those of --config."""
    config: dict = {}
    if args.rehearse:
        merge(config, REHEARSAL)
    if args.data:
        data = args.data.resolve()
        names = {
            "poses_from": "train.csv",
            "car_models": "car_models_json",
            "car_model_ids": "car_model_ids.csv",
        }
        merge(config, {"demo": {key: str(data / name) for key, name in names.items()}})
    for setting in args.config:
        key, _, value = setting.partition("=")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value  # a plain text such as run=wide
        merge(config, {key: parsed})
    return config


def merge(config: dict, changes: dict) -> None:
    """Lay changes over a nested configuration, key by key."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = json.loads(json.dumps(value))  # a copy


def settings(config: dict) -> list[str]:
    """A configuration as arguments of --config."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()
    ]


def run_workflow(config: dict, environment: dict, deadline: float, watch: Path) -> str:
    """Run Snakemake until it ends or the time is over → finished, stopped or failed.

    watch: CSV for the GPU's memory (MiB) and utilisation (%) of each second.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "submission",
        "report",
        "--snakefile",
        str(ROOT / "Snakefile"),
    ]
    # The greedy scheduler starts no solver. Trainings wait for the GPU by themselves, all libraries loaded.
    command += ["--cores", "all", "--scheduler", "greedy", "--rerun-incomplete", "--keep-going"]
    command += ["--nolock"]  # a run that was killed leaves its lock behind
    command += ["--quiet", "host", "rules", "--configfile", str(CONFIG), "--config", *settings(config)]
    # A session of its own, so that a signal reaches all jobs: trainings save their state.
    workflow = subprocess.Popen(command, env=environment, start_new_session=True)
    with open(watch, "w", encoding="utf-8") as file:
        query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
        watcher = subprocess.Popen([*query, "-l", "1"], stdout=file) if shutil.which("nvidia-smi") else None
        try:
            status = "failed" if workflow.wait(max(deadline - time.time(), 1)) else "finished"
        except subprocess.TimeoutExpired:
            status = "stopped"
        finally:
            stop(workflow)
            if watcher:
                watcher.terminate()
    return status


def stop(workflow: subprocess.Popen, patience: float = 30) -> None:
    """End Snakemake and all of its jobs."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(workflow.pid, sent)
            workflow.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass


def summarise(run: Path, watch: Path, start: float, status: str) -> str:
    """The figures of a run as Markdown; parts that do not exist yet are left out."""
    import pandas as pd  # after the installation, and not needed to start

    minutes = (time.time() - start) / 60
    parts = [f"# {run.name}: {status} after {minutes:.1f} minutes, on {machine()}"]
    if (run / "evaluation.csv").is_file():
        table = pd.read_csv(run / "evaluation.csv").set_index("name")
        scores = pd.DataFrame(index=table.index)
        for prefix, title in (("oof", "out of fold"), ("test", "hidden truth")):
            interval = 1.96 * table[f"{prefix}_sd"]
            scores[f"mAP {title}"] = [
                f"{m:.4f} ± {i:.4f}" for m, i in zip(table[f"{prefix}_mAP"], interval, strict=True)
            ]
            scores[f"leaderboard's, {title}"] = table[f"{prefix}_mAP_leaderboard"].map("{:.4f}".format)
        parts.append("## Scores, with 95 % intervals over photos\n\n" + markdown(scores.reset_index()))
        bands = pd.read_csv(run / "evaluation_bands.csv")
        bands = bands[bands["name"] == table.index[0]].drop(columns="name").round(3)
        parts.append(f"## {table.index[0]} by distance\n\n" + markdown(bands))
    if rates := training_rates(run):
        parts.append("## Trainings\n\n" + markdown(pd.DataFrame(rates)))
    samples = re.findall(r"^(\d+), (\d+)$", watch.read_text(encoding="utf-8"), re.M)
    if samples:
        memory, use = zip(*[(int(mib), int(percent)) for mib, percent in samples], strict=True)
        text = f"{max(memory) / 1024:.1f} GiB of memory at most, utilisation {sum(use) / len(use):.0f} % on"
        busy = sum(percent > 0 for percent in use)
        parts.append(f"## GPU\n\n{text} average, {busy} of {len(use)} seconds in use")
    if jobs := job_times(run):
        parts.append("## Where the time went\n\n" + markdown(pd.DataFrame(jobs)))
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """The GPU's name, or the number of cores where there is none."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return f"{os.cpu_count()} cores without a GPU"


def training_rates(run: Path) -> list[dict]:
    """Of each finished training: epochs, seconds, photos per second after the first epoch, GPU memory."""
    import pandas as pd

    rows = []
    for path in sorted(run.glob("round*/*/fold*/history.csv")):
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        shared = run.parent / (config["data_from"] or run.name)
        round_name, model, fold = path.parts[-4:-1]
        history, folds = pd.read_csv(path), pd.read_parquet(shared / "data" / "folds.parquet")
        keys = config["train"] | config["models"][model]
        batch = keys.get("batch_size", 8)
        photos = max((folds["fold"] != int(fold.removeprefix("fold"))).sum() // batch, 1) * batch
        log = run / "logs" / "train" / f"{round_name}-{model}-{fold}.log"
        memory = re.findall(r"GPU memory ([\d.]+) GiB", log.read_text(encoding="utf-8"))
        seconds = history["seconds"]
        rows.append(
            {
                "training": f"{model}/{fold}",
                "epochs": len(history),
                "photos per epoch": photos,
                "seconds": round(seconds.sum(), 1),
                "first epoch": seconds.iloc[0],
                "photos/s": round(photos / seconds.iloc[1:].median(), 1) if len(seconds) > 1 else "–",
                "GPU memory, GiB": memory[-1] if memory else "–",
            }
        )
    return rows


def job_times(run: Path) -> list[dict]:
    """By rule: jobs, first start and last end in seconds after the first job's start, and the sum of their
    seconds, from Snakemake's records. A training's seconds include those in which it waited for the GPU."""
    jobs: dict[str, dict[str, tuple[float, float]]] = {}
    for path in Path(".snakemake", "metadata").rglob("*"):
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        logs = [name for name in record.get("log") or [] if name.startswith(f"{run}/")]
        if logs and record.get("endtime"):  # one record per output file, of one job all alike
            jobs.setdefault(record["rule"], {})[logs[0]] = record["starttime"], record["endtime"]
    zero = min((first for times in jobs.values() for first, _ in times.values()), default=0)
    rows = [
        {
            "rule": rule,
            "jobs": len(times),
            "from": round(min(first for first, _ in times.values()) - zero),
            "to": round(max(last for _, last in times.values()) - zero),
            "seconds of all jobs": round(sum(last - first for first, last in times.values())),
        }
        for rule, times in jobs.items()
    ]
    return sorted(rows, key=lambda row: row["from"])


def markdown(table) -> str:
    """A pandas table as a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def collect(run: Path, output: Path) -> None:
    """Copy the results, and pack logs, histories and the configuration into details.tar.gz."""
    for name in COPIED:
        if (run / name).is_file():
            shutil.copy(run / name, output / name)
    with tarfile.open(output / "details.tar.gz", "w:gz") as archive:
        archive.add(output / "gpu.csv", "gpu.csv")
        for pattern in ("config.json", "logs/**/*.log", "benchmarks/**/*.tsv", "round*/*/*/history.csv"):
            for path in sorted(run.glob(pattern)):
                archive.add(path, str(path.relative_to(run)))
    (output / "gpu.csv").unlink()


if __name__ == "__main__":
    sys.exit(main())
