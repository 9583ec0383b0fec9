"""Remaining time of a grid while it runs."""

import time
from collections.abc import Mapping

from pipeline.durations import StageDurations, remaining_seconds
from pipeline.graph import Graph
from pipeline.store.states import State
from pipeline.store.store import Store


class GridClock:
    """Estimates the remaining time of a grid and of its running stage runs.

    The speed of a running stage run decides as soon as it has made progress; before that, finished
    stage runs of this and earlier grids (`pipeline.durations`).
    """

    def __init__(self, graph: Graph, store: Store, num_slots: int) -> None:
        """Start the clock.

        Args:
            graph: Stage runs of the command.
            store: Results of this and earlier grids.
            num_slots: Stage runs that run side by side; 0 estimates nothing.
        """
        self._graph, self._store, self._num_slots = graph, store, num_slots
        self._begin = time.monotonic()
        self._starts: dict[str, tuple[float, int]] = {}
        self._left: dict[str, float] = {}
        self._durations = StageDurations(store)
        self._expected: dict[str, float | None] = {}
        self.first_total_s: float | None = None
        """The first estimate of the time of the whole command, in seconds."""

    def on_end(self, address: str) -> None:
        """Take a stage run into account that has just ended, or waits for its next attempt."""
        self._starts.pop(address, None)
        self._left.pop(address, None)
        self._durations, self._expected = StageDurations(self._store), {}

    def on_progress(self, address: str, step: int, total: int | None) -> None:
        """Note the progress of a running stage run."""
        now = time.monotonic()
        begin, first = self._starts.setdefault(address, (now, step))
        if total and step > first:
            self._left[address] = (total - step) * (now - begin) / (step - first)
        elif (expected := self._expect(address)) is not None:
            self._left[address] = max(0.0, expected - (now - begin))

    def stage_left(self, address: str) -> float | None:
        """Return the remaining seconds of a running stage run; None if unknown."""
        return self._left.get(address)

    def grid_left(self, states: Mapping[str, State]) -> float | None:
        """Return the remaining seconds of the grid; None if unknown."""
        if not self._num_slots:
            return None
        left = dict(self._left)
        for address in self._graph.nodes:
            is_open = states.get(address) not in (State.DONE, State.FAILED)
            if is_open and states.get(address) is not State.RUNNING:
                expected = self._expect(address)
                if expected is None:
                    return None
                left[address] = expected
        seconds = remaining_seconds(self._graph, states, left, self._num_slots)
        if seconds is not None and self.first_total_s is None:
            self.first_total_s = time.monotonic() - self._begin + seconds
        return seconds

    def _expect(self, address: str) -> float | None:
        if address not in self._expected:
            self._expected[address] = self._durations.predict(self._graph.nodes[address])
        return self._expected[address]
