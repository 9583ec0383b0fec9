"""Direct answers of A-OKVQA, chrF and ANLS, as functions and in an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import DataError
from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import Benchmark, BenchmarkItem, load_benchmark
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.metrics.open_text import anls, chrf, direct_score
from evaluation.runner import EvaluationOptions, evaluate
from tests.support.evaluation_doubles import scorer, write_benchmark


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (9, 1)])
def test_direct_answers_count_all_equal_answers(agreeing: int, expected: float) -> None:
    answers = ["dog"] * agreeing + [f"x{i}" for i in range(10 - agreeing)]
    assert direct_score("dog", answers) == pytest.approx(expected)
    assert direct_score("Dog", answers) == 0, "nothing is normalised"
    with pytest.raises(DataError, match="at least one"):
        direct_score("dog", [])


def test_the_score_of_direct_answers_strips_nothing_as_the_official_program() -> None:
    """The answerers strip; the language-aware score ignores white space."""
    item = BenchmarkItem(
        dataset="a", question_id="q", benchmark=Benchmark.DIRECT, answer_type="direct",
        question_type="what", language="eu", image_key="i", image=b"", question="Zer da?",
        answers=("txakurra",) * 10, choices=(), correct_choice=None,
    )  # fmt: skip
    assert scorer().score(item, "txakurra").score == 1
    assert scorer().score(item, "txakurra ").score == 0
    assert scorer().score(item, " txakurra\n").score_aware == 1


def test_chrf_agrees_with_sacrebleu() -> None:
    from sacrebleu.metrics.chrf import CHRF

    reply, references = "etxe zuria da", ["etxe zuri bat da", "txakur beltza"]
    expected = CHRF().sentence_score(reply, references[:1]).score / 100
    assert chrf(reply, references) == pytest.approx(expected)
    assert chrf("etxea", ["etxea"]) == pytest.approx(1)
    assert chrf("", ["etxea"]) == 0


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [
        ("Etxea", "etxea ", 1.0),
        ("etxe", "etxea", 0.8),
        ("etxa", "etxe", 0.75),
        ("katua", "etxea", 0.0),
        ("ab", "cb", 0.0),  # a distance of one half scores 0
        ("", "", 1.0),
        ("kitten", "sitting", 1 - 3 / 7),
    ],
)
def test_anls_of_worked_examples(reply: str, reference: str, expected: float) -> None:
    assert anls(reply, [reference]) == pytest.approx(expected)
    assert anls(reply, ["zzzzzzzzzzz", reference]) == pytest.approx(expected)


class EtxeaAnswerer:
    """Always gives the same reply."""

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        return [ModelReply(text="Etxea", num_tokens=1, is_truncated=False)] * len(questions)


def test_an_evaluation_reports_all_scores_of_free_text(tmp_path: Path) -> None:
    common = {"question_type": "what", "question": {"eu": "Zer da?"}}
    samples = [
        (f"p{i}", {"items": [
            {"question_id": f"d{i}", "benchmark": "da", "answer_type": "direct", **common,
             "answers": {"eu": ["etxe"] * 2 + ["Etxea"] + ["kalea"] * 7}},
            {"question_id": f"o{i}", "benchmark": "open", "answer_type": "open", **common,
             "answers": {"eu": ["etxea"]}},
        ]}, b"image %d" % i)
        for i in range(4)
    ]  # fmt: skip
    items = load_benchmark(write_benchmark(tmp_path, samples, language="eu"))
    found = evaluate(EtxeaAnswerer(), items, EvaluationOptions()).metrics
    assert found["da/eu/accuracy"].value == pytest.approx(100 / 3)
    assert found["da/eu/accuracy_aware"].value == 100, "etxe and etxea are forms of one Basque word"
    assert found["da/eu/accuracy"].majority == 100, "seven answers are kalea"
    assert found["open/eu/anls"].value == 100
    assert 50 < found["open/eu/chrf"].value < 100, "chrF is case-sensitive"
