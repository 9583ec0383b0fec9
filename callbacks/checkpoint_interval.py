"""Checkpoint intervals: a fixed number of steps, or the optimum for a mean time between failures.

Saving too often delays training, and saving too rarely repeats steps after a failure. The optimum
is Daly's (A higher order estimate of the optimum checkpoint interval, FGCS 22, 2006, eq. 37), from
the time that a save blocks training and the mean time between failures.
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
"""Steps before the first save; they measure the step time, and it measures the save time."""
_NUM_MEASURED_STEPS = 50
_MIN_LOGGED_CHANGE = 1.5
"""Factor by which a new interval must differ to be logged."""


def best_interval_s(save_s: float, failure_s: float) -> float:
    """Return the seconds of work between two saves that minimise the lost time.

    Args:
        save_s: Time that a save blocks training.
        failure_s: Mean time between failures without warning.
    """
    if save_s >= 2 * failure_s:
        return failure_s
    ratio = save_s / (2 * failure_s)
    return math.sqrt(2 * save_s * failure_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


class Cadence(Protocol):
    """Checkpoint schedule; it must return the same decision on every rank."""

    def start(self, trainer: lightning.Trainer) -> None:
        """Handle the start of training, or its resumption."""

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Return whether to save after this step."""

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """Record the time that a save blocked training."""


class EverySteps:
    """Fixed number of steps between checkpoints."""

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise ConfigError(f"checkpoint interval {num_steps} must be at least 1")
        self._num_steps = num_steps

    def start(self, trainer: lightning.Trainer) -> None:
        """Do nothing."""

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Return whether the step is a multiple of the interval."""
        return trainer.global_step % self._num_steps == 0

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """Do nothing."""


class MeasuredSteps:
    """Optimal number of steps between checkpoints, from measured step and save times."""

    def __init__(self, failure_s: float) -> None:
        """Initialise with the mean time between failures without warning."""
        if failure_s <= 0:
            raise ConfigError(f"hours between failures must be positive, got {failure_s / 3600}")
        self._failure_s = failure_s
        self._steps: deque[float] = deque(maxlen=_NUM_MEASURED_STEPS)
        self._saves: deque[float] = deque(maxlen=5)
        self._last, self._next, self._interval = 0.0, 0, 0

    def start(self, trainer: lightning.Trainer) -> None:
        """Schedule the first save early, to measure it."""
        self._last = time.monotonic()
        self._next = trainer.global_step + _FIRST_STEPS

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Return whether the interval has passed, and measure the step."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now
        return trainer.global_step >= self._next

    def saved(self, trainer: lightning.Trainer, seconds: float) -> None:
        """Choose the next interval; rank 0 decides for all."""
        self._saves.append(seconds)
        self._last = time.monotonic()
        step_s, save_s = statistics.median(self._steps), statistics.median(self._saves)
        best = best_interval_s(max(save_s, 1e-6), self._failure_s)
        num_steps = int(trainer.strategy.broadcast(max(1, round(best / max(step_s, 1e-6)))))
        self._next = trainer.global_step + num_steps
        if not 1 / _MIN_LOGGED_CHANGE < num_steps / max(1, self._interval) < _MIN_LOGGED_CHANGE:
            _LOG.info(
                "saving a checkpoint every %d steps: a save blocks training for %.3f s, a step "
                "takes %.3f s, the mean time between failures is %.2f h",
                *(num_steps, save_s, step_s, self._failure_s / 3600),
            )
            self._interval = num_steps
