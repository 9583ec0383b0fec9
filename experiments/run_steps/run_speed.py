"""Speed of the stage runs of a command: expected times, corrected by what has run so far.

Expected times come from finished stage runs of earlier grids, or from the planner. Both belong to
another load of the machine, so the ratio of measured to expected time of the stage runs that have
finished in this command or are running now corrects those that wait. Recent ones, similar ones and
those of the same kind count most.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from statistics import median

from pipeline.durations import count_differences, describe_node
from pipeline.graph import Graph

_WINDOW_S = 60.0
"""Span of the newest steps that decide the speed of a running stage run."""
_MIN_SAMPLES = 2
_TRUSTED_FRACTION = 0.2
"""Share of a stage run after which its own speed alone decides when it ends."""
_HALF_LIFE_S = 180.0
"""Age at which an observation counts half."""
_AGE_FRACTION = 0.2
"""The same as a share of the time since the start, for commands that take hours."""
_PRIOR_S = 2.0
"""Seconds of expected time that count as if they had been observed as expected."""
_OTHER_KINDS = 1.0
"""Weight of all other kinds together, beside 1 for an observation of the same fields."""
_OVERDUE_FRACTION = 0.1
"""Assumed rest of a stage run that takes longer than expected, relative to its time so far."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Time of a finished or running stage run."""

    address: str
    seconds: float
    """Time of the whole stage run, at its newest speed."""
    at: float
    """Time of the observation."""
    weight: float = 1.0
    """Less for a stage run that has just started, or long ago."""


class RunningStage:
    """Progress of a running stage run."""

    def __init__(self, start: float) -> None:
        self.start = start
        self._total = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._startup_s = 0.0

    def progress(self, now: float, step: int, total: int | None) -> None:
        """Note how many of the steps are done; a stage run may resume at an earlier step."""
        if self._samples and step < self._samples[-1][1]:
            self._samples.clear()
        if not self._samples:
            self._samples.append((now, step))
            self._startup_s = now - self.start
        elif step > self._samples[-1][1]:
            self._samples.append((now, step))
        self._total = total or 0
        # The first sample holds the start of the process; the others hold only steps.
        while len(self._samples) > _MIN_SAMPLES and self._samples[1][0] < now - _WINDOW_S:
            self._samples.popleft()

    @property
    def fraction(self) -> float:
        """Share of the steps that are done; 0 without progress of this attempt."""
        if self._step_s is None:
            return 0.0
        return self._samples[-1][1] / self._total

    @property
    def _step_s(self) -> float | None:
        if not self._total or len(self._samples) < _MIN_SAMPLES:
            return None
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (end - begin) / (last - first)

    @property
    def whole_s(self) -> float | None:
        """Time of the whole stage run at the newest speed; None without progress."""
        return None if self._step_s is None else self._startup_s + self._total * self._step_s

    def left(self, now: float, expected: float | None) -> float | None:
        """Return the remaining seconds; None if unknown.

        Args:
            now: Present time.
            expected: Expected seconds of the whole stage run.
        """
        by_steps = by_time = None
        if (step_s := self._step_s) is not None:
            by_steps = (self._total - self._samples[-1][1]) * step_s
            by_steps = max(0.0, by_steps - (now - self._samples[-1][0]))
        if expected is not None:
            elapsed = now - self.start
            by_time = max(expected - elapsed, _OVERDUE_FRACTION * elapsed)
            by_time = min(by_time, expected)
        if by_steps is None or by_time is None:
            return by_time if by_steps is None else by_steps
        trust = min(1.0, self.fraction / _TRUSTED_FRACTION)
        return trust * by_steps + (1 - trust) * by_time


class RunSpeed:
    """Predicts the time of stage runs from expected times and observations."""

    def __init__(self, graph: Graph, expected: Mapping[str, float], *, start: float) -> None:
        """Start without observations.

        Args:
            graph: Stage runs of the command.
            expected: Address -> expected seconds, on its own; what is unknown is missing.
            start: Time of the start of the command.
        """
        self._graph, self._expected, self._start = graph, dict(expected), start
        self._described = {a: describe_node(node) for a, node in graph.nodes.items()}
        self._similarity = cache(self._compare)
        self._finished: list[Observation] = []
        self._by_kind: dict[str, list[Observation]] = {}
        self._overall = 0.0
        self._now = start
        self.running: dict[str, RunningStage] = {}

    def start(self, address: str, now: float) -> RunningStage:
        """Return a running stage run, which has just started if it is new."""
        return self.running.setdefault(address, RunningStage(now))

    def end(self, address: str, now: float, seconds: float | None) -> None:
        """Note that a stage run has ended; without seconds, its time means nothing."""
        self.running.pop(address, None)
        if seconds:
            self._finished.append(Observation(address=address, seconds=seconds, at=now))

    def observe(self, now: float) -> None:
        """Weigh all observations for the predictions that follow."""
        half_life = max(_HALF_LIFE_S, _AGE_FRACTION * (now - self._start))
        ratios, weights, by_kind = 0.0, _PRIOR_S, dict[str, list[Observation]]()
        for one in (*self._finished, *self._observe_running(now)):
            aged = dataclasses.replace(one, weight=one.weight * 0.5 ** ((now - one.at) / half_life))
            by_kind.setdefault(self._graph.nodes[one.address].kind, []).append(aged)
            if expected := self._expected.get(one.address):
                ratios += aged.weight * expected * math.log(one.seconds / expected)
                weights += aged.weight * expected
        self._by_kind, self._overall, self._now = by_kind, ratios / weights, now

    def predict(self, address: str) -> float | None:
        """Return the seconds of a whole stage run at the present speed; None if unknown."""
        same = self._by_kind.get(self._graph.nodes[address].kind, [])
        same = [one for one in same if one.address != address]
        if not (expected := self._expected.get(address)):
            return median(one.seconds for one in same) if same else None
        ratios, weights = _OTHER_KINDS * self._overall, _OTHER_KINDS
        for one in same:
            if own := self._expected.get(one.address):
                weight = one.weight * self._similarity(address, one.address)
                ratios += weight * math.log(one.seconds / own)
                weights += weight
        return expected * math.exp(ratios / weights)

    def left(self, address: str) -> float | None:
        """Return the remaining seconds of a running stage run; None if unknown."""
        return self.running[address].left(self._now, self.predict(address))

    def _observe_running(self, now: float) -> Iterator[Observation]:
        for address, stage in self.running.items():
            seconds, weight = stage.whole_s, min(1.0, stage.fraction / _TRUSTED_FRACTION)
            elapsed = now - stage.start
            if seconds is None and elapsed > self._expected.get(address, math.inf):
                seconds, weight = elapsed * (1 + _OVERDUE_FRACTION), 1.0
            if seconds:
                yield Observation(address=address, seconds=seconds, weight=weight, at=now)

    def _compare(self, address: str, other: str) -> float:
        return 1 / (1 + count_differences(self._described[address], self._described[other]))
