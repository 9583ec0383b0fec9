"""Compact table of a dry run: one line per stage kind."""

import dataclasses
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.graph import Graph
from planner.estimator import StageEstimate

_KIND_COLUMNS = ("stage", "stage runs", "to run", "steps", "samples", "tokens", "trained", "frozen",
                 "memory", "time each")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRow:
    """Planned amounts of one stage run."""

    estimate: StageEstimate
    memory: str
    time: str


def show_kinds(
    console: Console, graph: Graph, to_run: set[str], row: Callable[[str], PlannedRow]
) -> None:
    """Print one line per stage kind, with the smallest and largest values of its stage runs.

    Args:
        console: Where to print.
        graph: Stage runs of the command.
        to_run: Addresses of those that are not finished.
        row: Returns the planned amounts of a stage run.
    """
    table = Table(title=f"{len(graph.cells)} cells, {len(graph.nodes)} stage runs")
    for name in _KIND_COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right")
    for kind in dict.fromkeys(node.kind for node in graph.nodes.values()):
        addresses = [address for address, node in graph.nodes.items() if node.kind == kind]
        rows = [row(address) for address in addresses]
        loads = [one.estimate.load for one in rows]
        weights = [one.estimate.weights for one in rows]
        table.add_row(
            kind,
            str(len(addresses)),
            "data missing" if graph.missing else str(len(to_run.intersection(addresses))),
            _span([load.num_steps for load in loads], "{:,.0f}"),
            _span([load.num_samples for load in loads], "{:,.0f}"),
            _span([load.num_tokens for load in loads], "{:,.0f}"),
            _span([one.trained / 1e6 for one in weights], "{:,.2f} M"),
            _span([one.frozen / 1e6 for one in weights], "{:,.2f} M"),
            _join([one.memory for one in sorted(rows, key=_memory_of)]),
            _join([one.time for one in sorted(rows, key=_time_of)]),
        )
    console.print(table)


def _span(numbers: Sequence[float], form: str) -> str:
    """Return the smallest and the largest number; empty if all are 0."""
    return _join([form.format(number) for number in sorted(numbers)]) if any(numbers) else ""


def _join(texts: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys((texts[0], texts[-1])))


def _memory_of(row: PlannedRow) -> float:
    cost = row.estimate.cost
    return row.estimate.cpu_memory_mb if cost is None else cost.memory_gib


def _time_of(row: PlannedRow) -> tuple[int, str]:
    return len(row.time), row.time
