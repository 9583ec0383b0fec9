"""Columns and metrics that separate the image from the language, and one benchmark from others."""

import dataclasses

import numpy as np
import pytest

from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import Benchmark, load_benchmark
from evaluation.benchmarks.predictions import SCHEMA
from evaluation.benchmarks.prompting import load_prompts
from evaluation.metrics.baseline_tests import one_sided_p_value
from evaluation.metrics.baselines import majority_baseline
from evaluation.runner import EvaluationOptions, evaluate
from tests.support.evaluation_doubles import LANGUAGES, Oracle, scorer, small_benchmark


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return load_benchmark(small_benchmark(tmp_path_factory.mktemp("benchmark")))


class Changed(Oracle):
    """An oracle whose replies are changed by a function."""

    def __init__(self, items, change):
        super().__init__(items)
        self.change = change

    def answer(self, questions):
        replies = super().answer(questions)
        return [dataclasses.replace(reply, text=self.change(reply.text)) for reply in replies]


class Swapped:
    """Answers every question correctly, but in the other language."""

    def __init__(self, items):
        book = load_prompts(LANGUAGES)
        other = {(i.benchmark, i.question_id, i.language): i.answers[0] for i in items}
        swap = {"en": "eu", "eu": "en"}
        self.known = {
            book.question(i): other[i.benchmark, i.question_id, swap[i.language]] for i in items
        }

    def answer(self, questions):
        texts = [self.known.get(question, "?") for question in questions]
        return [ModelReply(text=text, num_tokens=1, is_truncated=False) for text in texts]


def test_capitals_cost_nothing_in_the_normalised_score(items):
    """Finding C4: two thirds of the items are unanimous, where the official score is raw."""
    model = Changed(items, str.capitalize)
    result = evaluate(model, items, EvaluationOptions())
    metrics = result.metrics
    assert metrics["vqa/eu/accuracy"].value == pytest.approx(100 * 2 / 3)
    assert metrics["vqa/eu/yes_no"].value == 0
    for name in ("accuracy", "yes_no", "number", "other"):
        assert metrics[f"vqa_lmms/eu/{name}"].value == 100
    assert metrics["vqa/eu/unanimous"].value == pytest.approx(100 * 2 / 3)
    assert metrics["vqa/eu/unanimous"].n == 36


def test_the_contribution_of_the_image_is_the_score_minus_the_blind_score(items):
    metrics = evaluate(Oracle(items), items, EvaluationOptions()).metrics
    for kind in ("vqa", "vqa_lmms", "vqa_aware", "mc", "capqa"):
        for language in LANGUAGES:
            accuracy = metrics[f"{kind}/{language}/accuracy"]
            found = metrics[f"{kind}/{language}/attributable"]
            assert found.value == pytest.approx(accuracy.value - accuracy.blind)
            assert found.ci_low <= found.value <= found.ci_high
            assert found.beats_blind == accuracy.beats_blind
    without = evaluate(Oracle(items), items, EvaluationOptions(blind=False)).metrics
    assert "vqa/eu/attributable" not in without
    assert without["vqa/eu/accuracy"].beats_blind is None


def test_a_reply_in_the_wrong_language_is_not_forgetting(items):
    """Finding M6: the answers are right, so only the language is lost."""
    metrics = evaluate(Swapped(items), items, EvaluationOptions(blind=False)).metrics
    assert metrics["vqa/eu/other"].value == 0
    assert metrics["vqa/eu/accuracy_any_language"].value == 100
    assert metrics["mc/eu/accuracy_any_language"].value == 100
    assert metrics["capqa/eu/accuracy_any_language"].value == 100
    assert metrics["mc/eu/fidelity"].value == 0
    assert "mc/eu/accuracy_in_language" not in metrics
    # Numbers belong to both languages, so a third of the questions is answered as asked.
    assert metrics["vqa/eu/fidelity"].value == pytest.approx(100 / 3)
    assert metrics["vqa/eu/accuracy_in_language"].value == 100


def test_replies_that_must_be_an_option_do_not_count_in_the_fidelity(items):
    options = EvaluationOptions(blind=False, guided_choice=True)
    book = options.load_prompts(["eu"])
    asked = {item.benchmark: book.question(item) for item in items if item.language == "eu"}
    assert asked[Benchmark.MULTIPLE_CHOICE].options
    assert not asked[Benchmark.VQA].options + asked[Benchmark.CAPTION_QA].options
    result = evaluate(Swapped(items), items, options)
    free = evaluate(Swapped(items), items, EvaluationOptions(blind=False))
    is_choice = [kind == "mc" for kind in result.predictions["benchmark"].to_pylist()]
    known = result.predictions["is_in_language"].to_pylist()
    assert [value is None for value in known] == is_choice
    assert "mc/eu/fidelity" not in result.metrics
    found, all_replies = (one.metrics["fidelity/eu"] for one in (result, free))
    assert found.n == all_replies.n - free.metrics["mc/eu/fidelity"].n
    assert found.value * found.n == pytest.approx(all_replies.value * all_replies.n)
    assert result.metrics["vqa/eu/fidelity"] == free.metrics["vqa/eu/fidelity"]


def test_rows_say_whether_a_reply_is_in_the_language_of_the_question(items):
    table = evaluate(Swapped(items), items, EvaluationOptions()).predictions
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert all(row["is_in_language"] == (row["answer_type"] == "number") for row in rows)
    assert all(row["score_any_language"] == 1.0 for row in rows)
    assert {row["dataset"] for row in rows} == {"benchmark_test"}
    assert {row["blind_parsed"] for row in rows if row["benchmark"] == "capqa"} == {None}


@pytest.mark.slow
def test_refusals_are_counted_and_are_neither_yes_nor_no(items):
    """Finding H6: "I don't know" is reported as a refusal and not read as no."""
    metrics = replied_everywhere(items, {"en": "I don't know.", "eu": "Ez dakit."})
    for language in LANGUAGES:
        for kind in ("vqa", "mc", "capqa"):
            assert metrics[f"{kind}/{language}/refusals"].value == 100
        assert metrics[f"capqa/{language}/unparsed"].value == 100


def test_an_answer_that_expresses_doubt_is_no_refusal(items):
    metrics = replied_everywhere(items, {"en": "Yes, but I'm not sure which.", "eu": "Bai."})
    assert metrics["capqa/en/unparsed"].value == metrics["capqa/en/refusals"].value == 0


def replied_everywhere(items, words):
    """Return the metrics of a model that gives one reply per language."""
    book = load_prompts(LANGUAGES)
    language_of = {book.question(item): item.language for item in items}

    class Constant:
        def answer(self, questions):
            texts = [words[language_of.get(question, "en")] for question in questions]
            return [ModelReply(text=text, num_tokens=3, is_truncated=False) for text in texts]

    return evaluate(Constant(), items, EvaluationOptions()).metrics


def test_further_benchmarks_have_a_prefix(items):
    other = [dataclasses.replace(item, dataset="culture") for item in items]
    metrics = evaluate(Oracle(items), [*items, *other], EvaluationOptions()).metrics
    assert metrics["culture/mc/eu/accuracy"].n == metrics["mc/eu/accuracy"].n == 12
    assert metrics["culture/fidelity/eu"].n == 60
    alone = evaluate(Oracle(items), items, EvaluationOptions()).metrics
    assert {name for name in metrics if not name.startswith("culture/")} == set(alone)


def test_an_accuracy_must_exceed_its_blind_and_majority_baselines(items):
    seeing = evaluate(Oracle(items), items, EvaluationOptions())
    blind = evaluate(Changed(items, lambda text: "bai"), items, EvaluationOptions())
    for kind in ("vqa", "mc", "capqa"):
        own, guessed = (found.metrics[f"{kind}/eu/accuracy"] for found in (seeing, blind))
        assert max(own.beats_blind, own.beats_majority) < 0.05
        assert guessed.beats_blind == 0.5  # the same reply without the image: a tie
    assert seeing.metrics["vqa/eu/accuracy"].beats_majority < 0.001
    assert blind.metrics["vqa/eu/accuracy"].beats_majority > 0.5
    unseen = evaluate(Oracle(items), items, EvaluationOptions(blind=False))
    assert unseen.metrics["vqa/eu/accuracy"].beats_blind is None


def test_the_one_sided_test_keeps_its_level_with_clusters():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 5).astype(str)
    ease = 0.5 + 0.2 * rng.normal(size=(500, 40, 1))
    own, blind = ((rng.random((500, 40, 5)) < ease).astype(float) for _ in range(2))
    p_values = np.array([one_sided_p_value(values.ravel(), clusters) for values in own - blind])
    assert 0.02 < (p_values <= 0.05).mean() < 0.08
    assert one_sided_p_value(np.ones(200), clusters) < 1e-4
    assert one_sided_p_value(np.zeros(200), clusters) == 0.5  # a tie counts half
    assert one_sided_p_value(np.ones(45), clusters[:45]) == 1  # nine images show nothing


def test_the_majority_answer_earns_most_although_others_have_more_votes(items):
    """Finding L: 21 unanimous answers have more votes than one that is half right four times."""
    usual = next(item for item in items if item.answer_type == "other" and item.language == "eu")
    alone = [
        dataclasses.replace(usual, question_id=f"a{at}", answers=(f"hitza{at}",) * 10)
        for at in range(21)
    ]
    shared = [
        dataclasses.replace(
            usual,
            question_id=f"b{at}",
            answers=("gris",) * 2 + tuple(f"x{at}{i}" for i in range(8)),
        )
        for at in range(4)
    ]
    baseline = majority_baseline([*alone, *shared], scorer())
    (best,) = baseline.answers.values()
    assert (best.answer, best.score) == ("gris", pytest.approx(4 * 0.6 / 25))
