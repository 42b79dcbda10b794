"""Resources that a run will use on a cluster, by rule: from Snakemake's dry run and the times of earlier
jobs.

    snakemake -n submission --profile workflow/profiles/slurm | python -m carpose.forecast

hours, gpu_hours: at most, by the requested run times. hours_expected, gpu_hours_expected: by the benchmark
files of earlier jobs, of the same job, else the median of its other folds, else of its other rounds; "?"
where there are none. measured: number of jobs with such files, the only ones in the expected hours.
Threads are not shown, because a dry run limits them to its own --cores: they are under `resources:` in the
configuration and in the profile.
"""

import sys

from carpose.core.files import run_main
from carpose.core.options import program

from .jobs import forecast, planned_jobs


def main() -> None:
    program("carpose.forecast", __doc__).parse_args()
    table = forecast(planned_jobs(sys.stdin.read()))
    for name in ("hours", "gpu_hours"):
        expected = table[f"{name}_expected"].map("{:.2f}".format)
        table[f"{name}_expected"] = expected.where(table["measured"] > 0, "?")
    print(table.to_string(float_format="{:.1f}".format))


if __name__ == "__main__":
    run_main(main)
