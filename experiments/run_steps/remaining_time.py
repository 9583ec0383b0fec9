"""Remaining time of a grid while it runs."""

import time
from collections.abc import Callable, Mapping
from functools import cached_property

from experiments.run_steps.run_speed import RunSpeed
from pipeline.durations import StageDurations, planned_seconds, remaining_seconds
from pipeline.graph import Graph
from pipeline.store.states import State
from pipeline.store.store import Store
from planner.estimator import Estimator

_REPORT_S = 5.0
"""Time from the end of the last stage run to the end of the command (measured)."""
_UPDATE_S = 1.0
"""Interval of estimates, which take CPU time from the training."""


class GridClock:
    """Estimates the remaining time of a grid and of its running stage runs.

    Before the first stage run of a kind has made progress, finished ones of earlier grids
    (`pipeline.durations`) or the planner tell how long it takes; then its measured speed corrects
    all that wait (`experiments.run_steps.run_speed`).
    """

    def __init__(
        self,
        graph: Graph,
        store: Store,
        num_slots: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            graph: Stage runs of the command.
            store: Results of this and earlier grids.
            num_slots: Stage runs that run side by side; 0 estimates nothing.
            clock: Returns the present time in seconds.
        """
        self._graph, self._store, self._num_slots = graph, store, num_slots
        self._clock = clock
        self._begin, self._next_update = clock(), 0.0
        self._left: dict[str, float] = {}
        self._grid_left: float | None = None
        self.first_total_s: float | None = None
        """The first estimate of the time of the whole command, in seconds."""

    def on_end(self, address: str, state: State) -> None:
        """Take a stage run into account that has just ended, or waits for its next attempt."""
        folder = self._store.folder(self._graph.nodes[address].kind, address)
        seconds = folder.read_status().wall_s if state is State.DONE else None
        self._speed.end(address, self._clock(), seconds)
        self._next_update = 0.0

    def on_progress(self, address: str, step: int, total: int | None) -> None:
        """Note the progress of a running stage run."""
        now = self._clock()
        stage = self._speed.start(address, now)
        if total:
            stage.progress(now, step, total)

    def stage_left(self, address: str) -> float | None:
        """Return the remaining seconds of a running stage run; None if unknown."""
        return self._left.get(address)

    def grid_left(self, states: Mapping[str, State]) -> float | None:
        """Return the remaining seconds of the grid; None if unknown."""
        if (now := self._clock()) >= self._next_update:
            self._grid_left = self._estimate(states, now)
            self._next_update = now + _UPDATE_S
        return self._grid_left

    def _estimate(self, states: Mapping[str, State], now: float) -> float | None:
        ended = (State.DONE, State.FAILED)
        unfinished = [a for a in self._graph.nodes if states.get(a) not in ended]
        self._left = {}
        if not unfinished:
            return None
        self._speed.observe(now)
        for address in unfinished:
            is_running = address in self._speed.running
            seconds = (self._speed.left if is_running else self._speed.predict)(address)
            if seconds is not None:
                self._left[address] = seconds
        if not self._num_slots:
            return None
        seconds = remaining_seconds(self._graph, states, self._left, self._num_slots)
        if seconds is None:
            return None
        seconds += _REPORT_S if self._graph.cells else 0.0
        if self.first_total_s is None:
            self.first_total_s = now - self._begin + seconds
        return seconds

    @cached_property
    def _speed(self) -> RunSpeed:
        """Made at the first use, when the first stage runs have been started."""
        durations = StageDurations(self._store)
        measured = {
            address: seconds
            for address, node in self._graph.nodes.items()
            if (seconds := durations.predict(node)) is not None
        }
        planned = dict[str, float]()
        if self._num_slots:
            estimator = Estimator({}, self._store.root / "cache")
            estimates = {a: node.estimate(estimator) for a, node in self._graph.nodes.items()}
            planned = planned_seconds(self._graph, estimates, self._num_slots)
        return RunSpeed(self._graph, planned | measured, start=self._begin)
