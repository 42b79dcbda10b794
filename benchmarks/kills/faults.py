"""Faults. Each returns what is recorded about it, or None if it could not happen at that moment."""

import collections
import errno
import os
import random
import subprocess
import time

from .run import RESULTS, Run, send

SIGNALS = ["SIGKILL", "SIGTERM"]
KINDS = [*SIGNALS, *SIGNALS, "SIGKILL of all", "full disk", "damaged file", "damaged file"]
SLURM_KINDS = [*SIGNALS, "Slurm node"]
# The results that a table or checkpoint is read for: once they are there, nothing reads it again.
READERS = {
    "data/*.parquet": "evaluation.csv",
    "round*/*/fold*/state.pt": "evaluation.csv",
    "round0/*/fold*/model.pt": "round1/MODEL/fold1/model.pt",
    "round1/*/fold*/model.pt": "round1/MODEL/test.parquet",
    "round0/*/test_folds.parquet": "round0/pseudo.parquet",
    "round*/*/oof.parquet": "evaluation.csv",
    "round*/*/test.parquet": "evaluation.csv",
    "round0/pseudo.parquet": "round1/dla34/fold1/model.pt",
    "fused_*.parquet": "evaluation.csv",
}


def hit_process(run: Run, name: str, rng: random.Random) -> dict | None:
    by_role = collections.defaultdict(list)
    for process in run.processes():
        by_role[process.role].append(process.pid)
    if not by_role:
        return None
    target = rng.choice(sorted(by_role))
    send(rng.choice(sorted(by_role[target])), name)
    return {"kind": name, "target": target}


def fill_disk(run: Run, process: subprocess.Popen, rng: random.Random) -> dict:
    """No room for some seconds of CPU time, or until the command ends."""
    filler = run.folder / "filler"
    seconds = round(rng.uniform(2, 20), 1)
    until = run.cpu() + seconds
    while run.cpu() < until and process.poll() is None:
        with open(filler, "ab", buffering=0) as handle:  # again, because others delete files
            for block in (1 << 20, 1 << 12, 1):
                try:
                    while handle.write(bytes(block)) == block:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        time.sleep(0.1)
    filler.unlink()
    return {"kind": "full disk", "cpu_seconds": seconds}


def damage(run: Run, rng: random.Random) -> dict | None:
    """Truncate or change a file that will still be read; all processes of the run were killed before."""
    results = run.folder / RESULTS
    paths = [
        path
        for pattern, reader in READERS.items()
        for path in sorted(results.glob(pattern))
        if not (results / reader.replace("MODEL", path.parent.parent.name)).exists()
    ]
    if not paths:
        return None
    # Every kind of file has the same chance.
    name = rng.choice(sorted({path.name for path in paths}))
    path = rng.choice([path for path in paths if path.name == name])
    data, times = bytearray(path.read_bytes()), path.stat()
    how = rng.choice(["truncated", "emptied", "64 bytes changed", "1 byte changed"])
    if how == "truncated":
        del data[rng.randrange(len(data)) :]
    elif how == "emptied":
        data.clear()
    else:
        count = int(how.split()[0])
        place = rng.randrange(max(len(data) - count, 1))
        data[place : place + count] = bytes(
            byte ^ rng.randint(1, 255) for byte in data[place : place + count]
        )
    path.write_bytes(data)
    if keep_time := rng.random() < 0.5:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return {
        **{"kind": "damaged file", "target": name, "file": str(path.relative_to(run.folder))},
        **{"how": how, "old time": keep_time, "bytes": len(data)},
    }
