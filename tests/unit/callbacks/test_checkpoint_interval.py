"""Optimal interval between checkpoints, from measured times."""

import itertools
import math
import types

import pytest
from scipy.optimize import minimize_scalar

from callbacks import checkpoint_interval
from callbacks.checkpoint_interval import EverySteps, MeasuredSteps, best_interval_s
from core.errors import ConfigError


def _expected_s(work_s: float, save_s: float, failure_s: float) -> float:
    """Wall time per second of work with exponential failures (Daly 2006, eq. 20, restart 0)."""
    return failure_s * (math.exp((work_s + save_s) / failure_s) - 1) / work_s


@pytest.mark.parametrize("save_s", [0.01, 1.0, 10.0, 60.0, 300.0])
@pytest.mark.parametrize("failure_s", [600.0, 3600.0, 10_800.0, 86_400.0])
def test_the_interval_minimises_the_expected_time(save_s: float, failure_s: float) -> None:
    found = minimize_scalar(
        lambda log: _expected_s(math.exp(log), save_s, failure_s), bounds=(-3, 14), method="bounded"
    )
    mine = _expected_s(best_interval_s(save_s, failure_s), save_s, failure_s)
    assert mine <= found.fun * 1.001


def test_long_saves_use_the_time_between_failures() -> None:
    assert best_interval_s(1000.0, 100.0) == 100.0


def _trainer(step: int = 0) -> types.SimpleNamespace:
    strategy = types.SimpleNamespace(broadcast=lambda value: value)
    return types.SimpleNamespace(global_step=step, strategy=strategy)


def _saves(cadence: MeasuredSteps, trainer: types.SimpleNamespace, steps: int, clock: list[float],
           step_s: float, save_s: float) -> list[int]:  # fmt: skip
    found = []
    for _ in range(steps):
        trainer.global_step += 1
        clock[0] += step_s
        if cadence.is_due(trainer):
            found.append(trainer.global_step)
            clock[0] += save_s
            cadence.saved(trainer, save_s)
    return found


def test_the_interval_follows_measured_steps_and_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(checkpoint_interval.time, "monotonic", lambda: clock[0])
    cadence, trainer = MeasuredSteps(10_800.0), _trainer(40)
    cadence.start(trainer)
    found = _saves(cadence, trainer, 2_000, clock, step_s=2.0, save_s=5.0)
    interval = round(best_interval_s(5.0, 10_800.0) / 2.0)
    assert found[0] == 60  # twenty steps after it went on
    assert {b - a for a, b in itertools.pairwise(found)} == {interval}
    slower = _saves(cadence, trainer, 4_000, clock, step_s=8.0, save_s=5.0)
    assert slower[-1] - slower[-2] == pytest.approx(interval / 4, abs=1)


def test_the_interval_is_never_zero() -> None:
    cadence, trainer = MeasuredSteps(1e-3), _trainer()
    cadence.start(trainer)
    for _ in range(50):
        trainer.global_step += 1
        if cadence.is_due(trainer):
            cadence.saved(trainer, 0.0)
    assert cadence._next > trainer.global_step - 2


def test_invalid_intervals_are_rejected() -> None:
    with pytest.raises(ConfigError, match="interval 0"):
        EverySteps(0)
    with pytest.raises(ConfigError, match="must be positive"):
        MeasuredSteps(0.0)
