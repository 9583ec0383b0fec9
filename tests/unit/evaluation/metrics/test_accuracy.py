"""Accuracy metrics: worked examples, equality with NumPy to the last bit, and merging of ranks."""

from typing import Any

import numpy as np
import pytest
from torchmetrics import Metric

from core.errors import DataError
from core.rng import named_rng
from evaluation.metrics.accuracy import (
    MeanScore,
    MultipleChoiceAccuracy,
    VQAAccuracy,
    YesNoAccuracy,
)

ANSWER_TYPES = ("number", "other", "yes/no")


def merged(ranks: list[Metric], *states: str) -> Any:
    """Compute a metric whose sync gathers the states of all ranks, as a process group would."""
    gathered = {
        id(getattr(ranks[0], name)): [getattr(rank, name) for rank in ranks] for name in states
    }
    ranks[0].dist_sync_fn = lambda state, group: gathered[id(state)]
    ranks[0].distributed_available_fn = lambda: True
    return ranks[0].compute()


def random_scores(seed: int, size: int) -> np.ndarray:
    """Scores of VQA accuracy, whose sums are not exact in floating point."""
    return named_rng(seed, "scores").choice([0.0, 0.3, 0.6, 0.9, 1.0], size=size)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 127, 128, 129, 1000, 8193, 40_000])
def test_means_equal_numpy_to_the_last_bit(size: int) -> None:
    scores = random_scores(size, size)
    types = named_rng(size, "types").choice(ANSWER_TYPES, size=size)
    mean, vqa = MeanScore(), VQAAccuracy(ANSWER_TYPES)
    mean.update(scores)
    vqa.update(scores, types)
    assert float(mean.compute()) == 100.0 * float(np.mean(scores))
    result = vqa.compute()
    assert float(result.pop("accuracy")) == 100.0 * float(np.mean(scores))
    assert set(result) == set(types)
    for name, value in result.items():
        assert float(value) == 100.0 * float(np.mean(scores[types == name]))


def test_shares_equal_numpy_to_the_last_bit() -> None:
    rng = named_rng(0, "shares")
    for size in range(1, 200):
        scores = (rng.random(size) < 0.4).astype(np.float64)
        unparsed = rng.random(size) < 0.2
        choice = MultipleChoiceAccuracy()
        choice.update(scores, [None if missing else "dog" for missing in unparsed])
        found = {name: float(value) for name, value in choice.compute().items()}
        assert found == {
            "accuracy": 100.0 * float(np.mean(scores)),
            "unparsed": 100.0 * float(np.mean(unparsed)),
        }


def test_vqa_accuracy_over_two_ranks_equals_one() -> None:
    sizes = (37, 64, 5)
    batches = [
        (random_scores(size, size), named_rng(size, "types").choice(ANSWER_TYPES, size=size))
        for size in sizes
    ]
    alone = VQAAccuracy(ANSWER_TYPES)
    ranks: list[Metric] = [VQAAccuracy(ANSWER_TYPES) for _ in range(2)]
    for number, content in enumerate(batches):
        alone.update(*content)
        ranks[number % 2].update(*content)
    expected, found = alone.compute(), merged(ranks, "score_sums", "counts")
    assert set(expected) == {"accuracy", *ANSWER_TYPES}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-12)
    scores = np.concatenate([content[0] for content in batches])
    assert float(expected["accuracy"]) == pytest.approx(100 * scores.mean())


def test_a_rank_without_items_adds_nothing() -> None:
    ranks: list[Metric] = [VQAAccuracy(ANSWER_TYPES), VQAAccuracy(ANSWER_TYPES)]
    ranks[0].update([1.0], ["other"])
    assert merged(ranks, "score_sums", "counts") == {"accuracy": 100.0, "other": 100.0}


def test_mean_score_over_two_ranks_equals_one() -> None:
    ranks: list[Metric] = [MeanScore(), MeanScore()]
    ranks[0].update([1.0, 0.3])
    ranks[1].update([0.2])
    assert float(merged(ranks, "score_sum", "count")) == pytest.approx(50)


def test_counts_over_two_ranks_equal_one() -> None:
    ranks: list[Metric] = [YesNoAccuracy(), YesNoAccuracy()]
    alone = YesNoAccuracy()
    ranks[0].update([True, None], [True, True])
    ranks[1].update([False], [True])
    alone.update([True, None, False], [True, True, True])
    assert merged(ranks, "counts") == alone.compute()
    ranks = [MultipleChoiceAccuracy(), MultipleChoiceAccuracy()]
    ranks[0].update([1.0, 0.0], ["dog", "cat"])
    ranks[1].update([1.0, 0.0], ["tree", None])
    assert merged(ranks, "counts") == {"accuracy": 50.0, "unparsed": 25.0}


def test_multiple_choice_accuracy_adds_up_over_updates() -> None:
    metric = MultipleChoiceAccuracy()
    metric.update([1.0, 0.0, 0.0], ["dog", "cat", None])
    metric.update([1.0], ["house"])
    assert metric.compute() == {"accuracy": 50.0, "unparsed": 25.0}


def test_yes_no_accuracy_of_a_worked_example() -> None:
    metric = YesNoAccuracy()
    metric.update([True, True, False, None], [True, False, False, True])
    metric.update([None, False], [False, True])
    result = {name: round(float(value), 4) for name, value in metric.compute().items()}
    # Of six items, three are "yes" (one hit), two replies say "yes", and two are correct.
    assert result == {
        "accuracy": 33.3333,
        "precision": 50.0,
        "recall": 33.3333,
        "f1": 40.0,
        "yes_ratio": 33.3333,
        "unparsed": 33.3333,
    }


def test_ratios_with_an_empty_denominator_are_zero() -> None:
    metric = YesNoAccuracy()
    metric.update([False, False], [False, False])
    result = metric.compute()
    assert result["accuracy"] == 100
    assert result["precision"] == result["recall"] == result["f1"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    "metric",
    [MeanScore(), VQAAccuracy(ANSWER_TYPES), MultipleChoiceAccuracy(), YesNoAccuracy()],
)
def test_no_items_are_an_error(metric: Metric) -> None:
    with pytest.raises(DataError, match="no items"):
        metric.compute()


def test_an_unknown_answer_type_is_an_error() -> None:
    with pytest.raises(DataError, match="answer type 'choice'"):
        VQAAccuracy(ANSWER_TYPES).update([1.0], ["choice"])
