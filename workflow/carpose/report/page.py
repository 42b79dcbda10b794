"""The page as one HTML text: no other file and no network is needed to show it."""

from dataclasses import dataclass
from importlib import resources

import jinja2
import pandas as pd

from carpose.analysis.figures import calibration_figure, causes_figure, groups_figure
from carpose.fuse.write import advice
from carpose.plots.figures import evaluation_figure, history_figure

from . import sections
from .charts import svg
from .gallery import Photo
from .run import Run

TITLES = {
    "upload": "Which file to upload",
    "scores": "Scores",
    "gains": "Gains",
    "trainings": "Trainings",
    "errors": "Where the score is lost",
    "photos": "Photos",
    "cost": "Time and memory",
    "configuration": "Configuration",
    "versions": "Versions",
}


@dataclass(frozen=True)
class Table:
    """A table for the page. text: its cells are words, not numbers."""

    columns: list[str]
    rows: list[list[str]]
    text: bool = False

    @classmethod
    def of(cls, table: pd.DataFrame, text: bool = False) -> "Table | None":
        """None where it has no rows."""
        if table.empty:
            return None
        cells = zip(*(_texts(table[name]) for name in table), strict=True)
        return cls([str(name) for name in table], [list(row) for row in cells], text)


def _texts(column: pd.Series) -> list[str]:
    """The cells of a column; numbers with as many decimals as the longest needs, – where there is none."""
    values = ["–" if pd.isna(value) else value for value in column]
    if not pd.api.types.is_float_dtype(column):
        return [str(value) for value in values]
    decimals = max((len(repr(float(v)).partition(".")[2].rstrip("0")) for v in values if v != "–"), default=0)
    return [value if value == "–" else f"{value:.{decimals}f}" for value in values]


def render(run: Run, test_photos: list[Photo], oof_photos: list[Photo]) -> str:
    """The report's HTML. Everything that comes from data is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    source = resources.files(__package__).joinpath("page.html.j2").read_text("utf-8")
    template = environment.from_string(source)
    losses, unusual = sections.final_losses(run)
    settings = sections.configuration(run.config)
    differing = {(place, "value") for place in settings.index[settings["differs"]]}
    tables = {
        "scores": Table.of(sections.scores(run)),
        "gains": Table.of(sections.fusion_gains(run), text=True),
        "rounds": Table.of(sections.round_gains(run)),
        "pseudo": Table.of(sections.pseudo_labels(run)),
        "pairs": Table.of(run.analysis.get("member_pairs", pd.DataFrame()).round(3)),
        "losses": Table.of(losses),
        "oracles": Table.of(sections.of_fused(run, "oracles")),
        "bands": Table.of(sections.bands(run)),
        "cost": Table.of(sections.cost(run)),
        "configuration": Table.of(settings.drop(columns="differs"), text=True),
        "versions": Table.of(sections.versions(run), text=True),
    }
    return template.render(
        title=f"carpose: {run.folder.name}",
        code=run.code,
        sections=list(TITLES.items()),
        facts=_facts(run),
        remarks=sections.remarks(run),
        advice=advice(run.fit, run.submissions),
        fusion=sections.fusion_summary(run),
        hidden="test_mAP" in run.scores,
        views=sections.test_time_views(run.config),
        tables=tables,
        unusual=unusual,
        differing=differing,
        charts=_charts(run),
        test_photos=test_photos,
        oof_photos=oof_photos,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What one reads first: (text, value)."""
    fused = run.scores[run.scores["name"] == "fused"].iloc[0]
    facts = [("fused mAP out of fold", f"{fused['oof_mAP']:.3f}")]
    if "test_mAP" in run.scores:
        facts.append(("fused mAP on the hidden truth", f"{fused['test_mAP']:.3f}"))
    return facts + [(text, f"{number:,}") for text, number in sections.counts(run).items()]


def _charts(run: Run) -> dict[str, str]:
    """The figures as SVG by name."""
    makers = {
        "evaluation": (lambda: evaluation_figure(run.scores), "Scores of all models as bars"),
        "history": (lambda: history_figure(run.histories), "Losses, learning rate and mAP of all trainings"),
    }
    if run.analysis:
        groups = run.analysis["groups"]
        by_member = dict(list(groups.groupby("name", sort=False)))
        fused = {name: sections.of_fused(run, name) for name in ("thresholds", "oracles", "scores", "depth")}
        makers |= {
            "groups": (lambda: groups_figure(by_member), "mAP by kind of car"),
            "causes": (
                lambda: causes_figure(fused["thresholds"], fused["oracles"]),
                "What becomes of the true cars, and mAP if one thing were right",
            ),
            "calibration": (
                lambda: calibration_figure(fused["scores"], fused["depth"]),
                "Scores against hits, and depth uncertainty against errors",
            ),
        }
    charts = {name: svg(make, text) for name, (make, text) in makers.items()}
    return dict.fromkeys(["groups", "causes", "calibration"], "") | charts
