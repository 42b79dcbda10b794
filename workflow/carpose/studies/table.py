"""The results of studies side by side: read, judged, written as Markdown."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from carpose.core.errors import UserError
from carpose.core.files import write_text

from .measure import judge
from .plan import BASE

SETS = {"held_out": "mAP, held out", "test": "mAP, hidden truth"}
LOSSES = """\
Losses of the last epoch on the augmented training photos, without their weights; `loss` is the weighted sum.
Where a study changes a loss, a weight or the augmentation, they are not on one scale."""
MARKS = "<!-- table of carpose.studies -->", "<!-- end of the table -->"


def read_table(paths: list[Path]) -> pd.DataFrame:
    """The JSONs of `measure` → one row per variant, judged; a base that studies share stands there once."""
    table = pd.DataFrame([row for path in paths for row in _rows(path)])
    is_base = table["variant"] == BASE
    bases = table[is_base].drop_duplicates("base").drop(columns=["gain", "photo_error"])
    bases = bases.assign(seeds=bases["mAP"].map(len), mAP=bases["mAP"].map(np.mean))
    judged = judge(table[~is_base])
    parts = [
        part
        for base in bases["base"]
        for part in (bases[bases["base"] == base], judged[judged["base"] == base])
    ]
    return pd.concat(parts, ignore_index=True)


def _rows(path: Path) -> list[dict]:
    """One row per variant of a result."""
    try:
        content = json.loads(path.read_text())
        return [_row_of(content, variant, entry) for variant, entry in content["variants"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error


def _row_of(content: dict, variant: str, entry: dict) -> dict:
    return {
        "study": "" if variant == BASE else content["study"],
        "variant": variant,
        "base": content["base"],
        "change": text_of(entry["change"]) or f"(base: {content['base']})",
        "photos": sum(content["photos"].values()),
        "gain": entry["gain"],
        "photo_error": entry["photo_error"],
        "retrained": entry["retrained"],
        "mAP": entry["mAP"],
        **{name: float(np.mean(entry[name])) for name in content["photos"]},
        **pd.DataFrame([run["losses"] for run in entry["runs"]]).mean().add_prefix("loss."),
        "cpu_minutes": float(np.mean([run["cpu_minutes"] for run in entry["runs"]])),
        "code": sorted({run["code"] for run in entry["runs"]}),
    }


def text_of(change: dict) -> str:
    """As in the study's file, on one line."""
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in change.items()
    )


def markdown(table: pd.DataFrame) -> str:
    """The table to read: scores, differences with their intervals and verdicts; then the losses."""
    sets = [name for name in SETS if name in table]
    code = ", ".join(sorted({version for versions in table["code"] for version in versions}))
    seeds = ", ".join(map(str, sorted(set(table["seeds"].astype(int)))))
    lines = [f"{seeds} seeds, {table['photos'].max()} photos to measure on, code {code}.", ""]
    head = ["study", "changed", *(SETS[name] for name in sets), "difference [95 %]"]
    head += ["minimum detectable effect", "verdict", "CPU min"]
    lines += [_line(head), _line(["---"] * len(head))]
    for row in table.to_dict("records"):
        cells = [row["study"], row["change"], *(_number(row[name]) for name in sets)]
        if row["study"]:
            interval = (
                f"{_number(row['gain'], '+')} [{_number(row['low'], '+')}, {_number(row['high'], '+')}]"
            )
            cells += [interval, _number(row["detectable"]), row["verdict"]]
        else:
            cells += ["", "", ""]
        lines.append(_line([*cells, f"{row['cpu_minutes']:.1f}"]))
    losses = [name for name in table if name.startswith("loss.")]
    head = ["study", "changed", *(name.removeprefix("loss.") for name in losses)]
    lines += ["", LOSSES, "", _line(head), _line(["---"] * len(head))]
    for row in table.to_dict("records"):
        values = ("" if pd.isna(row[name]) else f"{row[name]:.3g}" for name in losses)
        lines.append(_line([row["study"], row["change"], *values]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float, sign: str = "") -> str:
    return "" if pd.isna(value) else f"{value:{sign}.4f}".replace("0.", ".", 1)


def insert(text: str, document: Path) -> None:
    """Put the table between MARKS in a document, in place of the one that is there."""
    begin, end = MARKS
    whole = document.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise UserError(f"{document}: no place for the table; it needs the lines {begin} and {end}")
    between = re.compile(f"(?<={re.escape(begin)}).*(?={re.escape(end)})", re.S)
    write_text(document, between.sub(lambda _: f"\n\n{text}\n", whole))
