"""Parameters, operations and tokens of the cells next to their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from reporting.records import CellRecord, GridRecord
from reporting.sections.tables import ScoreRow, ScoreTable, tabulate
from reporting.series import PANELS, View
from reporting.settings import NBSP, setting_of, share_of

TITLES = ("tokens per image", "parameters", "trained in each stage", "training tokens",
          "training operations")  # fmt: skip
_MAIN_PANEL = next(panel for panel in PANELS if panel.key == "vqa")
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeTable:
    """Sizes of the models and trainings of a grid, and the main score of each."""

    scores: ScoreTable
    rows: tuple[tuple[ScoreRow, tuple[str, ...]], ...]
    """Row of scores, and one text for each of `TITLES`."""


def size_table(grid: GridRecord, view: View) -> SizeTable | None:
    """Return the sizes of all cells; None if they are not known or the models do not differ."""
    groups: dict[object, list[CellRecord]] = {}
    for cell in grid.cells:
        groups.setdefault((setting_of(cell), share_of(cell)), []).append(cell)
    texts = [_describe(cells) for cells in groups.values()]
    if not any(texts):
        return None
    scores = tabulate(grid, view, (_MAIN_PANEL,))
    return SizeTable(scores=scores, rows=tuple(zip(scores.rows, texts, strict=True)))


def _describe(cells: Sequence[CellRecord]) -> tuple[str, ...]:
    """Describe cells that differ in their seed only, so that their sizes are equal."""
    sizes = list(cells[0].training_sizes.values())
    if not sizes:
        return ()
    return (
        f"{sizes[-1].image_tokens}",
        _format(sizes[-1].parameters),
        ", ".join(_format(size.trained) for size in sizes),
        _format(sum(size.tokens for size in sizes)),
        f"{sum(size.flops for size in sizes):.2e}",
    )


def _format(number: float) -> str:
    """Format a number with three digits."""
    scale, unit = next(((s, u) for s, u in _UNITS if number >= s), (1.0, ""))
    return f"{number / scale:.3g}{NBSP}{unit}".rstrip(NBSP)
