"""Summary of a judge's verdicts: identical replies, Elo by maximum likelihood, and WildVision."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from core.errors import ConfigError
from evaluation.judge_summary import JudgeVerdict, judge_record, summarise
from evaluation.people.comparison import SystemComparison
from tests.support.comparisons import simulated_comparison

LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")


def verdicts_on(comparison: SystemComparison, labels: list[tuple[str, str]]) -> list[JudgeVerdict]:
    """Verdicts on the drawn questions in both orders, general first and adapted first."""
    tasks = [q.task_id for q in comparison.questions if q.place is not None]
    return [
        JudgeVerdict(task_id=task, image_key="", first=first, label=label, reply="")
        for task, pair in zip(tasks, labels, strict=True)
        for first, label in zip(("general", "adapted"), pair, strict=True)
    ]


def random_labels(count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [(LABELS[a], LABELS[b]) for a, b in rng.integers(0, 5, (count, 2))]


def test_equal_replies_are_ties_over_all_questions_and_left_out_of_the_differing_ones() -> None:
    comparison = simulated_comparison(20, 60)
    verdicts = verdicts_on(comparison, [("A>B", "B>A")] * 20)
    (report,) = summarise(verdicts, judge_record(verdicts, comparison, "judge"))
    every, differing = report.preferences.populations
    assert (every.num_questions, differing.num_questions) == (80, 20)
    assert report.preferences.num_identical == 60
    assert differing.win_rate.value == 1.0
    assert every.win_rate.value == pytest.approx(0.25)
    assert every.tie_rate.value == pytest.approx(0.75)
    assert every.share.value == pytest.approx(0.5 + 0.25 * 0.25)
    assert report.reward == pytest.approx(12.5)
    assert report.reward_low is not None
    assert report.reward_high is not None
    assert report.reward_low < 12.5 < report.reward_high
    assert differing.elo.value == pytest.approx(400 * math.log10(0.75 / 0.25))
    assert report.weighted_elo_differing.value is None, "all games were won"


def test_elo_is_the_maximum_likelihood_estimate_without_pseudo_counts() -> None:
    """Reference: `compute_mle_elo` of WildVision-Bench, where a tie is half a win for each."""
    comparison = simulated_comparison(30)
    labels = random_labels(30)
    verdicts = verdicts_on(comparison, labels)
    (report,) = summarise(verdicts, judge_record(verdicts, comparison, "judge"))
    wins = losses = 0.0
    for straight, reverse in labels:
        for label, sign in ((straight, 1), (reverse, -1)):
            better = sign * {"A": 1, "B": -1}[label[0]] if label != "A=B" else 0
            weight = 3 if ">>" in label else 1
            wins += weight * (1 + better) / 2
            losses += weight * (1 - better) / 2
    fitted = minimize_scalar(
        lambda elo: (
            wins * math.log(1 + 10 ** (-elo / 400)) + losses * math.log(1 + 10 ** (elo / 400))
        ),
        bounds=(-800, 800),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert report.weighted_elo.value == pytest.approx(fitted.x, abs=1e-3)
    assert report.weighted_elo == report.weighted_elo_differing
    assert report.weighted_elo.low is not None
    assert report.weighted_elo.high is not None
    assert report.weighted_elo.low < fitted.x < report.weighted_elo.high


def test_rewards_are_half_of_the_sums_of_wild_vision_and_wins_are_the_same() -> None:
    comparison = simulated_comparison(40)
    labels = random_labels(40)
    verdicts = verdicts_on(comparison, labels)
    (report,) = summarise(verdicts, judge_record(verdicts, comparison, "judge"))
    points = {"A>>B": 100, "A>B": 50, "A=B": 0, "B>A": -50, "B>>A": -100}
    # get_reward_from_judgement of show_results.py, whose model is B in the first game.
    sums = [points[straight] - points[reverse] for straight, reverse in labels]
    assert report.reward == pytest.approx(np.mean(sums) / 2)
    assert report.preferences.populations[0].win_rate.value == np.mean([s > 0 for s in sums])


def test_a_report_says_that_it_is_not_wild_vision_bench() -> None:
    comparison = simulated_comparison(12)
    verdicts = verdicts_on(comparison, [("A>B", "")] * 12)
    (report,) = summarise(verdicts, judge_record(verdicts, comparison, "judge"))
    assert report.protocol.startswith("in the manner of WildVision-Bench")
    assert report.num_unreadable == 12
    assert report.reward == 50, "the readable order alone"
    silent = verdicts_on(comparison, [("", "")] * 12)
    with pytest.raises(ConfigError, match="no verdict of the judge is readable"):
        summarise(silent, judge_record(silent, comparison, "judge"))
