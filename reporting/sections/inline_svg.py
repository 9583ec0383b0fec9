"""Style of all drawings, and their SVG as part of the page.

The page's SVG refers to its colours by CSS variables, so that one drawing serves the light and the
dark theme.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2024", "#6b727c", "#e6e8eb", "#ffffff"
TARGET, BASE = "#c2410c", "#2563a8"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", TARGET: "--target", BASE: "--base"}
"""Colours of the drawings and the CSS variables that replace them on the page."""
TIP = "tip: "
"""Beginning of the id of a mark, whose rest becomes its tooltip."""


@contextmanager
def plot_style() -> Iterator[None]:
    """Set the style of drawings for the statements of a `with` block."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "irudimen", "font.family": "DejaVu Sans",
        "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED,
        "ytick.color": MUTED, "axes.edgecolor": GRID, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "xtick.major.size": 0,
        "ytick.major.size": 0,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def to_inline_svg(figure: Figure) -> str:
    """Return SVG to embed in the page: no header, no fixed size, colours as CSS variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = svg.replace(f"fill: {PAPER}", "fill: var(--paper)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The reader's machine may lack the font of the drawing; the page's font stack is safe.
    return re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
