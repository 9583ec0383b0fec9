"""When to save: every so many steps, or as often as pays for the failures to be expected.

Too often costs steps that wait for a save, too seldom costs steps that are done again. The interval
in between is Daly's (A higher order estimate of the optimum checkpoint interval, FGCS 22, 2006,
eq. 37), from the time that a save keeps training waiting and the mean time between failures.
"""

import math
import statistics
import time
from collections import deque
from typing import Protocol

import lightning

from core.errors import ConfigError
from core.process.log import get_logger

_LOG = get_logger("checkpoints")
_FIRST_STEPS = 20
"""Steps after a start before the first save: they measure a step, it measures a save."""
_REMEMBERED = 50
_CHANGE = 1.5
"""A new interval is told in the log when it differs by so much."""


def best_interval_s(save_s: float, failure_s: float) -> float:
    """Seconds of work between two saves that lose the least time.

    Args:
        save_s: what a save keeps training waiting for.
        failure_s: mean time between failures that give no warning.
    """
    if save_s >= 2 * failure_s:
        return failure_s
    ratio = save_s / (2 * failure_s)
    return math.sqrt(2 * save_s * failure_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


class Cadence(Protocol):
    """When a checkpoint is due; every rank asks after every step, and gets the same answer."""

    def start(self, trainer: lightning.Trainer) -> None:
        """Training begins, or goes on."""

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Whether to save after this step."""

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """A save has kept training waiting for so long."""


class EverySteps:
    """A fixed number of steps."""

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise ConfigError(f"checkpoint interval {num_steps} must be at least 1")
        self._num_steps = num_steps

    def start(self, trainer: lightning.Trainer) -> None:
        """Nothing to do."""

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """At multiples of the number."""
        return trainer.global_step % self._num_steps == 0

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """Nothing to learn."""


class MeasuredSteps:
    """As many steps as pay, from what steps and saves take here."""

    def __init__(self, failure_s: float) -> None:
        """`failure_s`: mean time between failures that give no warning."""
        if failure_s <= 0:
            raise ConfigError(f"hours between failures must be above 0, got {failure_s / 3600}")
        self._failure_s = failure_s
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._saves: deque[float] = deque(maxlen=5)
        self._last, self._next, self._interval = 0.0, 0, 0

    def start(self, trainer: lightning.Trainer) -> None:
        """The first save comes soon, to be measured."""
        self._last = time.monotonic()
        self._next = trainer.global_step + _FIRST_STEPS

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Once the interval is over."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now
        return trainer.global_step >= self._next

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """Choose the next interval, on rank 0 for all."""
        self._saves.append(seconds)
        self._last = time.monotonic()
        step_s, save_s = statistics.median(self._steps), statistics.median(self._saves)
        best = best_interval_s(max(save_s, 1e-6), self._failure_s)
        num_steps = int(trainer.strategy.broadcast(max(1, round(best / max(step_s, 1e-6)))))
        self._next = trainer.global_step + num_steps
        if not 1 / _CHANGE < num_steps / max(1, self._interval) < _CHANGE:
            _LOG.info(
                "a checkpoint every %d steps from now on: a save keeps training waiting %.3f s, a "
                "step takes %.3f s, a failure is expected every %.2f h",
                *(num_steps, save_s, step_s, self._failure_s / 3600),
            )
            self._interval = num_steps
