"""Scores with several wordings of the instruction."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError
from evaluation.answerers.base import ModelReply
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import Benchmark, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.reasked import WORDED_KINDS
from evaluation.item_checks import check_items
from evaluation.runner import EvaluationOptions, evaluate
from evaluation.statistics.intervals import difference_interval
from tests.support.evaluation_doubles import LANGUAGES, Oracle, small_benchmark

WORDINGS = ("request_first", "short_cue")
OFFICIAL = "instructed"


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return load_benchmark(small_benchmark(tmp_path_factory.mktemp("benchmark")))


class Sensitive(Oracle):
    """Knows all answers, but does not understand some wordings of some images."""

    def __init__(self, items):
        self.known, self.num_asked = {}, 0
        for name in (OFFICIAL, *WORDINGS):
            book = load_prompts(LANGUAGES, style=name)
            for item in items:
                is_lost = name == "short_cue" and item.image in (b"image 1", b"image 2", b"image 3")
                self.known[book.question(item)] = "?" if is_lost else item.answers[0]

    def answer(self, questions):
        self.num_asked += len(questions)
        texts = [self.known.get(question, "?") for question in questions]
        return [ModelReply(text=text, num_tokens=1, is_truncated=False) for text in texts]


@pytest.fixture(scope="module")
def result(items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    options = EvaluationOptions(prompt_style=OFFICIAL, blind=False, wordings=WORDINGS)
    model = Sensitive(items)
    found = evaluate(model, items, options, output_folder=folder)
    assert model.num_asked == 3 * len(items)
    return found, pq.read_table(folder / "wordings.parquet")


def test_the_first_wording_decides_all_other_scores(items, result):
    found, _ = result
    options = EvaluationOptions(prompt_style=OFFICIAL, blind=False)
    alone = evaluate(Sensitive(items), items, options)
    assert alone.wordings is None
    assert alone.predictions.equals(found.predictions)
    assert {name: found.metrics[name] for name in alone.metrics} == alone.metrics
    assert all("/wording" in name for name in found.metrics.keys() - alone.metrics.keys())


def test_the_spread_between_wordings_is_reported(items, result):
    found, table = result
    for name in ("vqa", "vqa_lmms", "mc", "capqa"):
        values = {key: found.metrics[f"{name}/eu/{key}"].value for key in (
            "wording/instructed", "wording/request_first", "wording/short_cue", "wordings_mean",
            "wordings_lowest", "wordings_highest", "wordings_difference")}  # fmt: skip
        assert list(values.values()) == pytest.approx(
            [100, 100, 75, 100 * 11 / 12, 75, 100, 25], abs=1e-9
        )
    rows = table.to_pylist()
    assert len(rows) == 2 * len(items)
    lost = [row for row in rows if row["output"] == "?"]
    assert {row["wording"] for row in lost} == {"short_cue"}
    assert len(lost) == 3 * 5 * 2  # images, questions, languages


def test_the_interval_of_the_difference_is_corrected_for_the_choice_of_the_pair(result):
    found, _ = result
    difference = found.metrics["mc/eu/wordings_difference"]
    lost = np.array([float(1 <= at <= 3) for at in range(12)])
    images = [f"p{at:02d}" for at in range(12)]
    corrected, plain = (
        difference_interval(lost, images, seed=0, confidence=level)
        for level in (1 - 0.05 / 3, 0.95)
    )
    assert difference.ci_low == pytest.approx(100 * corrected.low)
    assert difference.ci_high == pytest.approx(100 * corrected.high)
    assert difference.ci_high > 100 * plain.high
    assert (difference.n, difference.num_images) == (12, 12)
    assert found.metrics["mc/eu/wordings_lowest"].ci_low is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_wording_is_another_one(language, items):
    """Two equal prompts would look like a score that does not depend on the wording."""
    books = [load_prompts([language], style=name) for name in (OFFICIAL, *WORDINGS)]
    for kind in Benchmark:
        templates = {book.templates[language][kind] for book in books}
        assert len(templates) == (3 if kind in WORDED_KINDS else 1)
    for name in WORDINGS:
        check_items(items, AskingConfig(prompt_style=name))  # options reach the prompt


def test_a_language_without_a_wording_is_an_error():
    with pytest.raises(ConfigError, match=r"'request_first'.*languages/es/prompts\.yaml"):
        load_prompts(["es"], style="request_first")
