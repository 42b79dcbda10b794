"""What the files of a run say, read for the report."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.core.keyed import load_json
from carpose.core.tables import read_csv
from carpose.fuse.fitted import Fit, read_fit
from carpose.fuse.names import SUBMISSIONS

NAME = re.compile(r"^round\d-|-fold\d+$")  # of a file in benchmarks/, around the model's name
ANALYSIS = ["groups", "thresholds", "oracles", "scores", "depth", "worst", "member_pairs"]


@dataclass(frozen=True)
class Run:
    """The results of one run; tables as their programs wrote them.

    config: the configuration, {} of a run of an earlier version; scores, bands: of carpose.evaluation;
    histories: name (round0/dla34/fold0) → table of epochs; pseudo: name of the round → report of
    carpose.pseudo; analysis: name → table of carpose.analysis, {} where it was not run; cost: one row per job
    that was timed; submissions: "all" and "thresholded" → file.
    """

    folder: Path
    data_run: Path  # the folder of the run that made its data: this one, or that of `data_from`
    config: dict
    scores: pd.DataFrame
    bands: pd.DataFrame
    fit: Fit
    images: pd.DataFrame
    labels: pd.DataFrame
    folds: pd.DataFrame
    fused_oof: pd.DataFrame
    fused_test: pd.DataFrame
    code: str
    histories: dict[str, pd.DataFrame]
    pseudo: dict[str, dict]
    analysis: dict[str, pd.DataFrame]
    cost: pd.DataFrame
    submissions: dict[str, Path]

    @property
    def data(self) -> Path:
        """The folder of its data: what its configuration names, or the rendered one."""
        return Path(self.config.get("data_root") or self.data_run / "demo")

    @property
    def members(self) -> list[str]:
        """The models by round, best out of fold first."""
        return [name for name in self.scores["name"] if name != "fused"]


def read_run(folder: Path) -> Run:
    """Raises UserError where a file is missing that every finished run has."""
    if not (folder / "evaluation.csv").is_file():
        raise UserError(f"{folder}: has no evaluation.csv; finish the run with the command that started it")
    scores = read_csv(folder / "evaluation.csv")
    members = [name for name in scores["name"] if name != "fused"]
    histories = {
        f"{member}/{path.parent.name}": read_csv(path)
        for member in sorted(members)
        for path in sorted((folder / member).glob("fold*/history.csv"))
    }
    rounds = sorted({member.partition("/")[0] for member in members})
    reports = {name: folder / name / "pseudo.json" for name in rounds}
    tables = {name: folder / "analysis" / f"{name}.csv" for name in ANALYSIS}
    fused = folder / "fused_test.parquet"
    config_file = folder / "config.json"
    config = load_json(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    data_run = folder.parent / config["data_from"] if config.get("data_from") else folder
    data, fit = data_run / "data", read_fit(folder / "fusion.json")
    return Run(
        folder=folder,
        data_run=data_run,
        config=config,
        scores=scores,
        bands=read_csv(folder / "evaluation_bands.csv"),
        fit=fit,
        images=parquet.read_images(data / "images.parquet"),
        labels=cars.read(data / "labels.parquet"),
        folds=parquet.read_folds(data / "folds.parquet"),
        fused_oof=cars.read(folder / "fused_oof.parquet", scored=True),
        fused_test=cars.read(fused, scored=True),
        code=parquet.about(fused).get("code", "unknown"),
        histories=histories,
        pseudo={
            name: load_json(path.read_text(encoding="utf-8"))
            for name, path in reports.items()
            if path.is_file()
        },
        analysis={name: read_csv(path) for name, path in tables.items() if path.is_file()},
        cost=read_cost(folder / "benchmarks"),
        submissions={cars_of: folder / name for cars_of, name in SUBMISSIONS[fit.mode].items()},
    )


def read_cost(folder: Path) -> pd.DataFrame:
    """Snakemake's measurements: job, seconds, processor seconds, peak memory in MB; no rows without any."""
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        measured = read_csv(path, sep="\t").tail(1)
        if len(measured):
            job = f"{path.parent.name} {re.sub(NAME, lambda name: name[0].replace('-', '/'), path.stem)}"
            rows.append((job, *measured[["s", "cpu_time", "max_rss"]].to_numpy()[0]))
    columns = ["job", "seconds", "processor seconds", "peak memory (MB)"]
    return pd.DataFrame(rows, columns=columns).replace("-", None)
