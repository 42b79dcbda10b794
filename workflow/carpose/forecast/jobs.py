"""The jobs of a dry run, the resources they request, and the times of earlier jobs like them."""

import re
from pathlib import Path

import pandas as pd

from carpose.core.errors import UserError


def planned_jobs(text: str) -> pd.DataFrame:
    """The jobs in the output of a dry run, one per row: rule, gpu, mem_mb, runtime (minutes),
    benchmark (path or ""). Raises UserError where there are none.
    """
    rows = []
    for block in re.split(r"^(?=(?:local)?rule \w+:$)", text, flags=re.M)[1:]:
        rule = block.partition(":")[0].split()[1]
        fields = dict(re.findall(r"^    (\w+): (.*)$", block, re.M))
        requested = dict(re.findall(r"(\w+)=([^,]+)", fields.get("resources", "")))
        numbers = {name: int(requested.get(name, 0)) for name in ("gpu", "mem_mb", "runtime")}
        rows.append({"rule": rule, **numbers, "benchmark": fields.get("benchmark", "")})
    rows = [row for row in rows if row["runtime"]]  # target rules request nothing
    if not rows:
        reason = "no jobs of a dry run in the input; pipe `snakemake -n TARGET` into it. The input ends with"
        raise UserError("\n  ".join([reason, *text.strip().splitlines()[-5:]]))
    return pd.DataFrame(rows)


def expected_seconds(benchmark: str, rounds: bool = True) -> float:
    """Seconds that the job with this benchmark file, or the median job like it, took; NaN if there is none.

    rounds: jobs of other rounds are like it; their trainings can have other numbers of epochs.
    """
    if not benchmark:
        return float("nan")
    path = Path(benchmark)
    folds = re.sub(r"fold\d+", "fold*", path.name)
    for pattern in (path.name, folds, *([re.sub(r"round\d+", "round*", folds)] if rounds else [])):
        if files := sorted(path.parent.glob(pattern)):
            return float(pd.concat([pd.read_csv(file, sep="\t") for file in files])["s"].median())
    return float("nan")


def forecast(jobs: pd.DataFrame) -> pd.DataFrame:
    """One row per rule, and their sum: number of jobs, resources of one job, hours and GPU hours, at most and
    expected.

    jobs: of `planned_jobs`. Expected hours include only jobs that were measured before; measured: their
    number.
    """
    hours, expected = jobs["runtime"] / 60, jobs["benchmark"].map(expected_seconds) / 3600
    table = jobs.assign(hours=hours, hours_expected=expected, measured=expected.notna())
    table = table.assign(gpu_hours=hours * jobs["gpu"], gpu_hours_expected=expected * jobs["gpu"])
    groups = table.groupby("rule", sort=False)
    requested = groups[["gpu", "mem_mb"]].max()
    sums = groups[["hours", "gpu_hours", "hours_expected", "gpu_hours_expected", "measured"]].sum()
    result = pd.concat([groups.size().rename("jobs"), requested, sums], axis=1)
    result.loc["sum"] = result.sum()
    result.loc["sum", ["gpu", "mem_mb"]] = 0
    counts = ["jobs", "gpu", "mem_mb", "measured"]
    return result.astype(dict.fromkeys(counts, int))
