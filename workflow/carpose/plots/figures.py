"""Figures of a run: learning curves of trainings, the table of scores, differences of studies.

In: tables. Out: figures, and `draw`, which writes one to a file.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.drawing.figures import DPI
from carpose.registry.heads import HEADS, VALID

# Okabe and Ito's colours, which colour-blind people can tell apart.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
HISTORY = {
    "loss": "total loss",
    **{name: f"{name} loss" for name in HEADS},
    "mAP": "mAP, validation fold",
    "lr": "learning rate",
    "seconds": "time per epoch [s]",
}
MARKED = 20  # epochs of a curve up to which each has a mark
VALIDATED = (
    "mAP of the validation fold during training: each photo as it is, in one view. The table of scores "
    "(evaluation.csv)\nis of predictions with the test-time views of the configuration (predict: flip, "
    "tta_rotations_deg, mask_filter): higher for the same fold, where there are any."
)


def history_figure(histories: dict[str, pd.DataFrame]) -> Figure:
    """One small panel per column of the histories, one line per training.

    histories: name (round0/dla34/fold1) → table with column epoch and any keys of HISTORY; NaN where a value
    was not measured. The model sets a line's colour and the round its dashes; all folds look the same.
    Validation losses, such as valid_loss, are crosses in the panel of the training loss. Raises UserError
    where a table has no column epoch.
    """
    for name, table in histories.items():
        if "epoch" not in table:
            raise UserError(f"history {name}: column epoch is missing; pass a history.csv of carpose.train")
    shown = [c for c in HISTORY if any(c in t and t[c].notna().any() for t in histories.values())]
    groups = list(dict.fromkeys(_group(name) for name in histories))
    models = list(dict.fromkeys(group.rpartition("/")[2] for group in groups))
    stages = list(dict.fromkeys(group.rpartition("/")[0] for group in groups))

    def style(group: str) -> dict:
        stage, _, model = group.rpartition("/")
        dash = ["-", "--", ":", "-."][stages.index(stage) % 4]
        return {"color": PALETTE[models.index(model) % len(PALETTE)], "linestyle": dash, "linewidth": 1.3}

    rows = max(-(-len(shown) // 4), 1)
    figure = Figure(figsize=(13, 2.7 * rows + 0.7), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False, sharex=True)
    for axes, column in zip(grid.flat, shown, strict=False):
        for name, table in histories.items():
            if column in table:
                measured = table[table[column].notna()]
                # A curve of one epoch, or of few, is nothing but its points.
                marker = "o" if column == "mAP" or len(measured) <= MARKED else None
                line = style(_group(name)) | {"marker": marker, "markersize": 4}
                axes.plot(measured["epoch"], measured[column], **line)
            if (validation := f"{VALID}{column}") in table:
                measured = table[table[validation].notna()]
                crosses = {
                    "color": style(_group(name))["color"],
                    "linestyle": "",
                    "marker": "x",
                    "markersize": 5,
                }
                axes.plot(measured["epoch"], measured[validation], **crosses)
        axes.set_title(HISTORY[column])
        axes.grid(color="0.9", linewidth=0.6)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        if column in ("mAP", "seconds"):
            axes.set_ylim(bottom=0)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], label=group, **style(group)) for group in groups]
    if any(column.startswith(VALID) for table in histories.values() for column in table):
        handles.append(Line2D([], [], label="validation fold", color="0.3", linestyle="", marker="x"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    if "mAP" in shown:
        figure.suptitle(VALIDATED, fontsize="small", color="0.3")
    return figure


def _group(name: str) -> str:
    """round0/dla34/fold1 → round0/dla34."""
    head, _, last = name.rpartition("/")
    return head if last.startswith("fold") and head else name


def evaluation_figure(table: pd.DataFrame) -> Figure:
    """The table of carpose.evaluation as bars, best on top; folds as dots on the out-of-fold bar.

    Raises UserError where the table has neither oof_mAP nor test_mAP.
    """
    bars = {"oof_mAP": ("out of fold", PALETTE[0]), "test_mAP": ("test photos", PALETTE[4])}
    bars = {column: style for column, style in bars.items() if column in table}
    if "name" not in table or not bars:
        raise UserError(
            "the table of scores lacks the columns name and oof_mAP or test_mAP; pass evaluation.csv"
        )
    table = table.sort_values(next(iter(bars)), ascending=False, na_position="last")
    folds = table.filter(regex=r"^fold\d+_mAP$").to_numpy(float)
    ticks, thickness = np.arange(len(table)), 0.8 / len(bars)
    figure = Figure(figsize=(9, 0.3 * len(table) * len(bars) + 1.3), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for i, (column, (label, colour)) in enumerate(bars.items()):
        lengths, y = table[column].to_numpy(float), ticks + (i - (len(bars) - 1) / 2) * thickness
        axes.barh(y, np.nan_to_num(lengths), thickness * 0.92, color=colour, label=label)
        dots = folds if column == "oof_mAP" else folds[:, :0]
        if dots.size:
            axes.plot(dots, y, "o", color="white", markeredgecolor="black", markersize=4)
        right = np.fmax(lengths, np.nanmax(dots, axis=1, initial=0))
        for bar_y, mean_ap, end in zip(y, lengths, right, strict=True):
            if np.isfinite(mean_ap):
                axes.annotate(f"{mean_ap:.3f}", (end, bar_y), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(ticks, table["name"])
    axes.invert_yaxis()
    axes.set_xlabel("mAP (dots: single folds)" if folds.size else "mAP")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(bars), frameon=False)
    return figure


def differences_figure(table: pd.DataFrame) -> Figure:
    """Difference in mAP of each variant to its base with the 95 % interval, one line per row of the table.

    table: columns study, base, change, gain, low, high, detectable, verdict, of carpose.studies.table.judge.
    """
    colours = {"gain": PALETTE[2], "loss": PALETTE[1], "inconclusive": "0.5"}
    height = np.arange(len(table))[::-1]
    figure = Figure(figsize=(10, 0.24 * len(table) + 1.3), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.barh(height, 2 * table["detectable"], left=-table["detectable"], height=0.9, color="0.93")
    for verdict, colour in colours.items():
        rows = (table["verdict"] == verdict).to_numpy()
        gain, low, high = table.loc[rows, ["gain", "low", "high"]].to_numpy().T
        style = {"fmt": "o", "color": colour, "markersize": 4, "label": verdict}
        axes.errorbar(gain, height[rows], xerr=[gain - low, high - gain], **style)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.use_sticky_edges = False  # otherwise the bars would touch the frame
    against = " (" + table["base"] + ")" if table["base"].nunique() > 1 else ""
    names = table["study"] + against + "  " + table["change"].str.slice(0, 60)
    axes.set_yticks(height, names, fontsize=7)
    axes.set_ylim(-0.7, len(table) - 0.3)
    text = (
        "difference in mAP to the base, with 95 % intervals; grey: smaller than the minimum detectable effect"
    )
    axes.set_xlabel(text)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def add_lenient(parser: argparse.ArgumentParser) -> None:
    """Adds --lenient, for commands whose figure must not stop a run."""
    text = "if the figure cannot be drawn, print a warning and write an image with the reason instead"
    parser.add_argument("--lenient", action="store_true", help=text)


def draw(path: str | Path, make: Callable[[], Figure], lenient: bool = False) -> None:
    """Make a figure and write it in the format of the suffix. Raises UserError where the suffix is unknown.

    lenient: an error while making the figure becomes a warning, and the file shows the reason.
    """
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in Figure().canvas.get_supported_filetypes():
        reason = f"{suffix} is not a known format of images" if suffix else "the name has no suffix"
        raise UserError(f"{path}: {reason}; name it .png")
    try:
        save(make(), path)
    except Exception as error:  # a missing figure must not stop a run
        if not lenient:
            raise
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"warning: {path}: not drawn: {reason}", file=sys.stderr)
        figure = Figure(figsize=(8, 2), dpi=DPI)
        text = textwrap.fill(f"not drawn: {reason}", 90)
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, parse_math=False)
        save(figure, path)


def save(figure: Figure, path: str | Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary)
