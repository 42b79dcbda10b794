"""Figures as inline SVG that follows the page's colours, light or dark."""

import io
import re
import zlib
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

INK = "#0a0b0c"  # placeholder for the colour of text and axes; `svg` replaces it by currentColor
STYLE = {
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
    "svg.fonttype": "none",  # text stays text: it can be read aloud and searched
    "svg.hashsalt": "carpose",  # the same figure gives the same bytes
    "legend.facecolor": "none",
}


def svg(make: Callable[[], Figure], text: str) -> str:
    """The figure as an <svg> element with `text` as its description for a screen reader.

    Every identifier within gets a prefix, so that the figures of a page do not mix up their parts.
    """
    with matplotlib.rc_context(STYLE):
        figure = make()
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    content = file.getvalue()
    content = content[content.index("<svg") :]
    prefix = f"c{zlib.crc32(text.encode())}-"
    content = re.sub(r'(id="|xlink:href="#|url\(#)', lambda match: match[0] + prefix, content)
    content = content.replace(INK, "currentColor")
    content = re.sub(r"stroke: #(e[0-9a-f])\1\1\b", "stroke: var(--line)", content)  # grids, light grey
    content = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", content, count=1)
    content = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", content, count=1)
    return content.replace("<svg ", f'<svg role="img" aria-label="{text}" class="chart" ', 1)
