"""One static page that says what a grid found: `python -m experiments.report --exp mix_ablation`.

The page needs no network and no server; figures (PNG, SVG) and all numbers (CSV) lie beside it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from core.io.files import atomic_write_text
from core.process.command import clear_errors
from reporting import caveats as cautions
from reporting import figures, gallery, hypotheses, tables
from reporting import sufficiency as enough
from reporting import summary as sentences
from reporting.preregistration import registered
from reporting.records import GridRecord, grid_folder, load_grid
from reporting.series import View, view_of

PAGE = "report.html"
_TEMPLATES = Path(__file__).parents[1] / "reporting"


def build_report(
    experiment: str,
    *,
    profile: str = "embedded",
    root: Path = Path("mlruns"),
    out: Path | None = None,
) -> Path:
    """Write the page, the figures and the CSV; returns the page's path.

    Args:
        experiment: Name of the experiment.
        profile: Profile it ran with.
        root: Output folder of the runs.
        out: Folder of the report; by default `report/` beside the grid's description.

    Raises:
        DataError: no such grid, or damaged files.
    """
    grid = load_grid(root, experiment, profile)
    view = view_of(grid)
    folder = out or grid_folder(root, experiment, profile) / "report"
    files = figures.save_figures(grid, view, folder / "figures")
    atomic_write_text(folder / "cells.csv", tables.cells_csv(grid))
    names = [str(path.relative_to(folder)) for path in files]
    atomic_write_text(folder / PAGE, render(grid, view, [*names, "cells.csv"]))
    return folder / PAGE


def render(grid: GridRecord, view: View, files: Sequence[str]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["signed"] = _signed
    claims = hypotheses.decide_claims(grid, view)
    groups = [(g.label, figures.page_drawings(grid, view, g)) for g in figures.groups(view)]
    return environment.get_template("page.html").render(
        grid=grid,
        view=view,
        summary=sentences.summary(grid, view, claims),
        facts=sentences.facts(grid, view),
        groups=[(label, drawings) for label, drawings in groups if drawings],
        legend=[(view.label(s), figures.dash_of(view, s)) for s in view.settings],
        claims=claims,
        delta=100 * registered(grid.folder).margin,
        enough=enough.enough_tables(grid, view),
        scores=tables.score_table(grid, view),
        fidelity=tables.fidelity_table(grid, view),
        retention=tables.retention_table(grid),
        canaries=tables.canary_rows(grid),
        gallery=gallery.build_gallery(grid, view),
        shown=[cell.cell_id for _, cell in gallery.chosen_cells(grid, view)],
        stages=tables.stage_rows(grid),
        cautions=cautions.cautions(grid, view),
        files=files,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _signed(points: float) -> str:
    """A difference with a sign of its own width."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report and say where it is."""
    parser = argparse.ArgumentParser(prog="experiments.report", description="Write a report.")
    add = parser.add_argument
    add("--exp", required=True, help="experiment, for example mix_ablation")
    add("--profile", default="embedded", help="profile it ran with (default: embedded)")
    add("--root", type=Path, default=Path("mlruns"), help="where results lie (default: mlruns)")
    add("--out", type=Path, help="folder of the report (default: beside the grid)")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    page = build_report(options.exp, profile=options.profile, root=options.root, out=options.out)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
