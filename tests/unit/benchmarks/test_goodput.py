"""The arithmetic of the goodput benchmark."""

import itertools
import statistics
from pathlib import Path

import pytest

from benchmarks.goodput import Measured, Outcome, draw_kills, predicted


@pytest.mark.parametrize(("trace", "deviation"), [("exponential", 100), ("bursts", 146)])
def test_a_trace_has_the_mean_it_is_said_to_have(trace: str, deviation: float) -> None:
    long = draw_kills(100.0, 4e6, 1, trace)
    gaps = [after - before for before, after in itertools.pairwise([0.0, *long])]
    assert statistics.mean(gaps) == pytest.approx(100, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(deviation, rel=0.04)
    firsts = [draw_kills(100.0, 1.0, seed, trace)[3] for seed in range(200)]
    independent = deviation / 100 / 2
    assert statistics.stdev(firsts) / statistics.mean(firsts) < 0.8 * independent, "stratified"


def test_a_step_counts_once_at_the_pace_of_its_attempt() -> None:
    """Steps 0 to 9 at 1 s, 6 to 7 at 2 s, 8 to 11 at 1 s: 6, 2 and 4 of them count."""
    attempts = [[(step, float(step)) for step in range(10)],
                [(step, 20.0 + 2 * step) for step in range(6, 9)], [],
                [(step, 50.0 + step) for step in range(8, 12)]]  # fmt: skip
    outcome = Outcome(wall_s=100.0, attempts=attempts, folder=Path())
    assert outcome.useful_s == 6 * 1 + 2 * 2 + 4 * 1


def test_the_model_knows_what_kills_cost() -> None:
    calm = Measured(step_s=0.1, save_s=0.05, restart_s=8.0)
    assert predicted(calm, 7.0, 1e9) == pytest.approx(7 / 7.05, rel=1e-6)
    assert 0.96 < predicted(calm, 7.0, 482) < 0.98
    assert predicted(calm, 100.0, 60) < predicted(calm, 3.0, 60)
