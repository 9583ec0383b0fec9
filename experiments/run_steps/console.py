"""Terminal output of a run: experiments, progress, results and failures."""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from configuration.report_config import DecidingMetric
from core.errors import CheckpointError
from experiments.run_steps.remaining_time import GridClock
from pipeline.durations import format_left
from pipeline.graph import Graph
from pipeline.store.notes import read_note
from pipeline.store.states import State
from pipeline.store.store import Store

_COLUMNS = {
    "VQA": "{metric}/{}/accuracy",
    "other": "{metric}/{}/other",
    "yes/no": "{metric}/{}/yes_no",
    "number": "{metric}/{}/number",
    "choice": "mc/{}/accuracy",
    "capqa": "capqa/{}/accuracy",
    "in language": "fidelity/{}",
    "truncated": "truncated/{}",
}


def show_experiments(console: Console, questions: Mapping[str, str]) -> None:
    """Print the experiments that --exp accepts, with their questions."""
    table = Table(title="Experiments", box=None, pad_edge=False, padding=(0, 2))
    table.add_column("--exp", style="bold")
    table.add_column("question")
    for name, question in questions.items():
        table.add_row(name, question)
    console.print(table)
    console.print("Start with: python -m experiments.run --exp smoke", highlight=False)


def show_results(console: Console, graph: Graph, store: Store, metric: DecidingMetric) -> None:
    """Print the scores of all cells in both languages, in percent.

    Args:
        console: Where to print.
        graph: Stage runs of the grid.
        store: Their results.
        metric: VQA score of the open questions.
    """
    rows = {cell: _read_scores(store, stages) for cell, stages in graph.cells.items()}
    languages = sorted({lang for scores in rows.values() for lang in _scored_languages(scores)})
    for language in reversed(languages):
        table = Table(title=f"Scores in '{language}' (percent; intervals are in the report)")
        table.add_column("cell", overflow="fold")
        for title in _COLUMNS:
            table.add_column(title, justify="right")
        for cell, scores in rows.items():
            names = [pattern.format(language, metric=metric) for pattern in _COLUMNS.values()]
            table.add_row(cell, *(_format_score(scores.get(name)) for name in names))
        console.print(table)


def show_failures(console: Console, graph: Graph, store: Store, failed: Sequence[str]) -> None:
    """Print why stage runs failed or did not start."""
    for address in failed:
        node = graph.nodes[address]
        folder = store.folder(node.kind, address)
        status = folder.read_status()
        unknown = f"no reason recorded; see {folder.path / 'log.txt'}" if status.attempts else ""
        reason = status.error or unknown or "not run: an earlier stage failed"
        where = escape(f"({folder.path}): {reason}")
        console.print(f"[red]{node.title}[/] {where}", soft_wrap=True)


class GridProgress:
    """Progress display with one bar for the grid and one per running stage."""

    def __init__(self, console: Console, graph: Graph, store: Store, *, num_slots: int = 0) -> None:
        """Prepare the display.

        Args:
            console: Where to show it.
            graph: Stage runs of the command.
            store: Their results, and those of earlier grids.
            num_slots: Stage runs that run side by side; 0 estimates no time for the grid.
        """
        self._graph, self._store = graph, store
        self.clock = GridClock(graph, store, num_slots)
        self._left: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._all = self._progress.add_task(
            "[bold]stage runs", total=len(graph.nodes), note="", left=""
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, states: dict[str, State]) -> None:
        """Update the display to the current states."""
        ended = [address for address in self._tasks if states[address] is not State.RUNNING]
        for address in ended:
            self.clock.on_end(address, states[address])
        for address, state in states.items():
            if state is State.RUNNING:
                self._show_running(address)
        self._left = self.clock.grid_left(states)
        done = sum(state is State.DONE for state in states.values())
        self._progress.update(self._all, completed=done, left=_describe_left(self._left))
        for address in ended:
            self._progress.remove_task(self._tasks.pop(address))
            self._print_end(address, states[address])

    def _show_running(self, address: str) -> None:
        node = self._graph.nodes[address]
        if address not in self._tasks:
            self._tasks[address] = self._progress.add_task(node.title, total=None, note="", left="")
        file = self._store.folder(node.kind, address).path / "progress.json"
        now = read_note(file)
        self.clock.on_progress(address, now.get("step", 0), now.get("total"))
        left = _describe_left(self.clock.stage_left(address))
        self._progress.update(self._tasks[address], left=left)
        if now:
            loss = now["metrics"].get("train/loss")
            note = "" if loss is None else f"loss {loss:.3f}"
            self._progress.update(
                self._tasks[address], completed=now["step"], total=now["total"], note=note
            )

    def _print_end(self, address: str, state: State) -> None:
        node = self._graph.nodes[address]
        seconds = self._store.folder(node.kind, address).read_status().wall_s
        left = f", {_describe_left(self._left)}" if self._left else ""
        line = f"{state.value:>8}  {node.title}  {seconds:.0f} s{left}"
        self._progress.console.print(line, highlight=False)


def _describe_left(seconds: float | None) -> str:
    return f"about {format_left(seconds)} left" if seconds else ""


def _read_scores(store: Store, stages: dict[str, str]) -> dict[str, dict[str, float]]:
    folder = store.folder("evaluate", stages["evaluate"])
    try:
        if not folder.is_done():
            return {}
    except CheckpointError:
        return {}
    metrics: dict[str, dict[str, float]] = json.loads((folder.result / "metrics.json").read_text())[
        "metrics"
    ]
    return metrics


def _scored_languages(scores: dict[str, dict[str, float]]) -> set[str]:
    return {name.split("/")[1] for name in scores if name.startswith("vqa/")}


def _format_score(score: dict[str, float] | None) -> str:
    return "-" if score is None else f"{score['value']:.1f}"
