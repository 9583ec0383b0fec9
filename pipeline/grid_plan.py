"""The plan of a grid: what a command runs, and what it writes once the stage runs have ended."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configuration.axes import GridCell
from configuration.trainer import TrainerConfig
from pipeline.graph import Graph
from pipeline.store.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridPlan:
    """The stage runs of a command and their context."""

    graph: Graph
    """Stage runs of the selected cells."""
    full_graph: Graph
    """Stage runs of every cell of the grid, of which `--only` selects a part."""
    trainer: TrainerConfig
    """Execution settings of every stage run."""
    cells: tuple[GridCell, ...]
    """Every cell of the grid; empty for an experiment that trains no cells."""
    hypotheses: Mapping[str, Mapping[str, Any] | str]
    """Hypotheses of the experiment itself, besides those of the project; or the reason why it
    leaves out one of these."""
    publish: Callable[[Store], Path]
    """Write the final output (a report or trained models) and return its path."""
    adapted: tuple[str, ...] = ()
    """Values that follow from the data instead of the profile, a sentence each."""
    note: str = ""
    """What a reader of the scores has to know, as the experiment states it; else empty."""

    def describe_selection(self) -> str:
        """Name the cells that `--only` selects; empty if it selects all."""
        chosen, every = self.graph.cells, self.full_graph.cells
        if len(chosen) == len(every):
            return ""
        return f"{len(chosen)} of {len(every)} cells are selected: {', '.join(chosen)}"
