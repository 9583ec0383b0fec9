"""Scores of a grid as tables in Markdown and LaTeX, and its data as BibTeX entries."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from datamodules.shards.manifest import SUFFIX, Manifest, load_manifest
from reporting.records import GridRecord
from reporting.sections.tables import ScoreTable
from reporting.series import Point

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


def to_markdown(table: ScoreTable) -> str:
    """Return the scores with their 95 % intervals as a Markdown table, in percent."""
    header = ["share", *table.axes, *(f"{c.title} ({c.language})" for c in table.columns)]
    rows = [[row.share, *row.values, *map(_plain, row.points)] for row in table.rows]
    aligned = ["---"] * (1 + len(table.axes)) + ["---:"] * len(table.columns)
    lines = [header, aligned, *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def to_latex(table: ScoreTable) -> str:
    """Return the scores with their 95 % intervals as a LaTeX table of the package booktabs."""
    header = ["share", *table.axes, *(f"{c.title} ({c.language})" for c in table.columns)]
    lines = [r"\begin{tabular}{" + "l" * (1 + len(table.axes)) + "r" * len(table.columns) + "}"]
    lines += [r"\toprule", " & ".join(map(escape_latex, header)) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [*map(escape_latex, (row.share, *row.values)), *map(_latex, row.points)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def to_bibtex(grid: GridRecord) -> str:
    """Return one entry for each data source of a grid whose manifest is on this machine."""
    return "\n".join(_entry(path, manifest) for path, manifest in _manifests(grid))


def escape_latex(text: str) -> str:
    """Escape the characters that have a meaning in LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _plain(point: Point | None) -> str:
    if point is None:
        return "-"
    interval = "" if point.low is None else f" [{point.low:.1f}, {point.high:.1f}]"
    return f"{point.value:.1f}{interval}"


def _latex(point: Point | None) -> str:
    if point is None:
        return "--"
    if point.low is None:
        return f"{point.value:.1f}"
    return rf"{point.value:.1f} {{\scriptsize [{point.low:.1f}, {point.high:.1f}]}}"


def _manifests(grid: GridRecord) -> Iterator[tuple[str, Manifest]]:
    names = {str(path) for stage in grid.stages() for path in stage.data}
    for name in sorted(names):
        if name.endswith(SUFFIX) and Path(name).is_file():
            try:
                yield name, load_manifest(Path(name))
            except DataError:  # the report of results does not need intact data
                continue


def _describe(provenance: Any) -> str:
    """Return the provenance of a source, which is a text or a mapping, as one line."""
    if not isinstance(provenance, Mapping):
        return str(provenance or "no provenance recorded").rstrip(".")
    parts = []
    for name, value in provenance.items():
        if isinstance(value, Mapping) and "version" in value:
            parts.append(f"{name} {value['version']}")
        elif "sha256" not in name:
            parts.append(f"{name}: {_describe(value)}")
    return ", ".join(parts)


def _entry(path: str, manifest: Manifest) -> str:
    key = re.sub(r"\W+", "-", Path(path).name.removesuffix(SUFFIX)).strip("-")
    fields = {
        "title": manifest.name,
        "note": f"{_describe(manifest.provenance)}. Licence: {manifest.licence}",
        "language": manifest.language,
    }
    lines = [f"  {name} = {{{escape_latex(text)}}}," for name, text in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}", ""])
