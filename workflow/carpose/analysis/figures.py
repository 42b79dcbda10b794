"""The figures of carpose.analysis: causes of lost score, calibration, receptive fields."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from carpose.drawing.figures import DPI
from carpose.plots.figures import PALETTE

OUTCOMES = {"hit": PALETTE[2], "fails_distance": PALETTE[1], "fails_rotation": PALETTE[3]}
OUTCOMES |= {"fails_both": PALETTE[4], "missed": "0.75"}
MAX_MEMBERS = len(PALETTE)  # more would repeat colours


def groups_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """mAP by group of cars: a panel per division, a bar per member; below each group its number of true cars.

    tables: member → table of analysis.errors.by_group. Members after the seventh are not shown.
    """
    tables = dict(list(tables.items())[:MAX_MEMBERS])
    first = next(iter(tables.values())).dropna(subset="mAP")
    divisions = list(dict.fromkeys(first["by"]))
    sizes = [int((first["by"] == division).sum()) for division in divisions]
    figure = Figure(figsize=(13, 3.6), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, len(divisions), sharey=True, squeeze=False, width_ratios=sizes)[0]
    for axes, division in zip(grid, divisions, strict=True):
        groups = first[first["by"] == division].set_index("group")
        ticks, width = np.arange(len(groups)), 0.8 / len(tables)
        for i, (name, table) in enumerate(tables.items()):
            heights = table[table["by"] == division].set_index("group")["mAP"].reindex(groups.index)
            x = ticks + (i - (len(tables) - 1) / 2) * width
            axes.bar(x, heights, width, color=PALETTE[i], label=name)
        axes.set_xticks(ticks, [f"{g}\n{n}" for g, n in groups["truths"].items()], fontsize=7)
        axes.set_title(division)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("mAP (numbers below: true cars)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def causes_figure(thresholds: pd.DataFrame, oracles: pd.DataFrame) -> Figure:
    """Left: outcomes of the true cars at each pair of thresholds. Right: mAP if a single error were
    corrected.

    thresholds, oracles: of analysis.errors.by_threshold and oracles.
    """
    figure = Figure(figsize=(13, 3.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    pairs = thresholds[["distance_%", "rotation_deg"]].to_numpy()
    names = [f"{distance:.0f} %\n{angle:.0f}°" for distance, angle in pairs]
    style = {"colors": list(OUTCOMES.values()), "labels": [name.replace("_", " ") for name in OUTCOMES]}
    left.stackplot(np.arange(len(names)), [thresholds[name] for name in OUTCOMES], **style)
    left.set_xticks(np.arange(len(names)), names, fontsize=7)
    left.set(ylim=(0, 1), xlim=(0, len(names) - 1), ylabel="share of the true cars")
    left.set_title("outcomes of the true cars by pair of thresholds")
    left.legend(loc="lower left", fontsize=7)
    ticks = np.arange(len(oracles))
    right.barh(ticks, oracles["mAP"], color=["0.5"] + [PALETTE[0]] * (len(oracles) - 1))
    for tick, mean_ap, gain in zip(ticks, oracles["mAP"], oracles["gain"], strict=True):
        text = f"{mean_ap:.3f}" + (f"  ({gain:+.3f})" if tick else "")
        right.annotate(text, (mean_ap, tick), (4, 0), textcoords="offset points", va="center", fontsize=8)
    right.set_yticks(ticks, oracles["oracle"])
    right.invert_yaxis()
    right.margins(x=0.2)
    right.set_title("mAP if a single error were corrected (gain)")
    right.spines[["top", "right"]].set_visible(False)
    return figure


def calibration_figure(scores: pd.DataFrame, depth: pd.DataFrame) -> Figure:
    """Left: share of hits over the score. Right: error of log z over its predicted σ. Dashed: perfect
    calibration.

    scores, depth: of analysis.errors.score_bins and depth_bins.
    """
    figure = Figure(figsize=(9, 4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    kinds = {"hit_10%_50deg": "hits at 10 %, 50°", "hit_mean": "mean over the ten pairs"}
    for (column, label), colour in zip(kinds.items(), PALETTE, strict=False):
        left.plot(scores["score"], scores[column], "o-", color=colour, label=label, markersize=4)
    left.set(xlabel="score", ylabel="share of hits", xlim=(0, 1), ylim=(0, 1), title="scores")
    left.legend(fontsize=8)
    if len(depth):
        edge = 1.1 * max(depth["sigma"].max(), depth["error"].max())
        right.plot([0, edge], [0, edge], color="0.7", linestyle="--")
        right.plot(depth["sigma"], depth["error"], "o-", color=PALETTE[0], markersize=4)
        right.set(xlim=(0, edge), ylim=(0, edge))
    right.set(xlabel="predicted σ of log z", ylabel="root mean square error of log z", title="depth")
    return figure


def receptive_figure(fields: dict[str, np.ndarray], table: pd.DataFrame, near: pd.DataFrame) -> Figure:
    """Per network the gradient of one cell by the input, its effective receptive field and sizes of near
    cars.

    fields: name → (H, W) mean |gradient| of the cell at the centre; table: columns name, effective_width,
    effective_height in pixels; near: columns metres, width, height of cars in input pixels.
    """
    figure = Figure(figsize=(9, 2.6 * len(fields) + 0.5), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(fields), 1, squeeze=False)[:, 0]
    for axes, (name, field) in zip(grid, fields.items(), strict=True):
        strength = np.log10(np.maximum(field / field.max(), 1e-5))
        height, width = field.shape
        axes.imshow(strength, cmap="magma", extent=(-width / 2, width / 2, height / 2, -height / 2))
        sizes = table[table["name"] == name].iloc[0]
        boxes = [("effective field", sizes["effective_width"], sizes["effective_height"], "white")]
        for i, row in enumerate(near.itertuples()):
            boxes.append((f"car at {row.metres:.0f} m", row.width, row.height, PALETTE[4 + i % 2]))
        for label, box_width, box_height, colour in boxes:
            style = {"fill": False, "edgecolor": colour, "label": label, "linewidth": 1.2}
            axes.add_patch(Rectangle((-box_width / 2, -box_height / 2), box_width, box_height, **style))
        axes.set_title(name)
        axes.legend(loc="upper right", fontsize=6)
    text = "input pixels from the cell; colour: log₁₀ |gradient| relative to its maximum, −5 … 0"
    figure.supxlabel(text, fontsize=8)
    return figure
