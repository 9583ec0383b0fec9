"""Official VQA accuracy against an independent oracle, its known slips, and merging of ranks."""

import pytest
import torch

from core.errors import DataError
from core.rng import named_rng
from evaluation.answers import english
from evaluation.answers.registry import rule_for
from evaluation.metrics.vqa import VQAAccuracy, aware_score, leave_one_out, official_score
from tests.support import vqa_oracle

NUM_RANDOM = 12_000
_FRAGMENTS = [
    *english.PUNCTUATION_MARKS,
    *vqa_oracle.SPELLING,
    *["a", "an", "the", "The", "A", "none", "zero", "One", "two", "ten", "eleven"],
    *["1", "2", "10", "3,5", "1,000", "2.5", ".5", "5.", ",", "٣,٤", "²"],
    *[".", "..", ":", "'", "%", "$", "~", "\n", "\t", "\r", "\u00a0", "\u3000", " ", "  "],
    *["TB-a", "NATO-ko", "zuri-beltza", "etxe bat", "bi txakur", "gorria", "bai", "Bai.", "EZ!"],
    *["dog", "Dog's", "red", "apple", "café", "cafe\u0301", "ÑU", "İstanbul", "ß", "\U0001f436"],
    *["I'm", "Im", "let's", "she's", "x-y;-z", "p/q,/r", "m!n(!o"],
]


def random_text(rng) -> str:
    pieces = []
    for _ in range(int(rng.integers(0, 6))):
        pieces.append(_FRAGMENTS[int(rng.integers(len(_FRAGMENTS)))])
        pieces.append("" if rng.random() < 0.5 else " ")
    if rng.random() < 0.02:
        pieces.append("." * int(rng.integers(28, 40)))
        pieces.append("x.y")
    return "".join(pieces)


def random_case(rng) -> tuple[str, list[str]]:
    pool = [random_text(rng) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.1:
        pool = pool[:1]
    answers = [pool[int(rng.integers(len(pool)))] for _ in range(10)]
    options = [*pool, english.normalise(pool[0]), pool[0].upper(), f" {pool[0]}.", random_text(rng)]
    return options[int(rng.integers(len(options)))], answers


def test_equal_to_the_oracle_on_random_and_adversarial_cases():
    rng = named_rng(0, "vqa cases")
    seen = {}
    for _ in range(NUM_RANDOM):
        prediction, answers = random_case(rng)
        expected = vqa_oracle.score(prediction, answers)
        assert official_score(prediction, answers) == expected, (prediction, answers)
        seen[round(expected, 1)] = seen.get(round(expected, 1), 0) + 1
    # A comparison that only ever saw 0 and 1 would show little.
    assert min(seen[value] for value in (0.0, 0.3, 0.6, 0.9, 1.0)) > 100


@pytest.mark.slow
def test_equal_to_the_oracle_on_a_hundred_thousand_cases():
    rng = named_rng(2, "more vqa cases")
    for _ in range(100_000):
        prediction, answers = random_case(rng)
        expected = vqa_oracle.score(prediction, answers)
        assert official_score(prediction, answers) == expected, (prediction, answers)


def test_normalisation_equal_to_the_oracle():
    rng = named_rng(1, "vqa strings")
    for _ in range(5_000):
        text = english.join_lines(random_text(rng))
        assert english.normalise(text) == vqa_oracle.normal(text), text


def test_every_published_contraction():
    for wrong, right in vqa_oracle.SPELLING.items():
        assert english.map_words(f"x {wrong.upper()}") == f"x {right}"


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_score_by_number_of_agreeing_humans(agreeing, expected):
    answers = ["dog"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
    assert official_score("Dog.", [*answers[:9], answers[9] + "!"]) == pytest.approx(expected)
    assert leave_one_out([answer == "dog" for answer in answers]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TB-a", "tb"),  # the case ending reads as an article
        ("3,5", "35"),
        ("1,000 (ca)", "1000 ca"),
        ("a-b, c", "b c"),  # the comma touches a space and goes, the hyphen is blanked
        ("a-b -c", "ab c"),  # one hyphen touches a space, so every hyphen goes
        ("1,2 x-y", "12 xy"),  # a digit-comma-digit deletes every mark
        ("x-y;-z", "x y z"),  # the blank left by the semicolon is no reason to delete the hyphen
        ("5.", "5"),  # the mistyped look-behind protects nothing
        ("5.2", "5.2"),
        (".5", ".5"),
        ("10:30", "10:30"),
        ("dont", "don't"),
        ("somebody'd", "somebodyd"),
        ("None", "0"),
        ("the THE a an", ""),
        ("." * 33, "."),  # the flag passed as count
        ("zuri-beltza", "zuri beltza"),
        ("gorria", "gorria"),
        ("bi txakur", "bi txakur"),
    ],
)
def test_quirks(text, expected):
    assert english.normalise(text) == expected


def test_unanimous_answers_are_compared_as_they_are():
    assert official_score("bai.", ["Bai"] * 10) == 0
    assert official_score("bai.", ["Bai"] * 9 + ["bai"]) == 1
    assert official_score(" Bai\n", ["Bai\t"] * 10) == 1
    assert aware_score("bai.", ["Bai"] * 10, rule_for("eu")) == 1


def test_equal_answers_do_not_vanish_together():
    # By dictionary inequality a unanimous right answer without ids would score 0.
    assert leave_one_out([True] * 10) == 1
    assert leave_one_out([True] * 5 + [False] * 5) == 1


def test_a_single_answer_is_exact_match_and_none_is_an_error():
    assert official_score("etxe", ["etxe"]) == 1
    assert official_score("etxea", ["etxe"]) == 0
    with pytest.raises(DataError, match="no answers"):
        official_score("etxe", [])


def batch(rng, size):
    cases = [random_case(rng) for _ in range(size)]
    kinds = [("yes/no", "number", "other")[int(rng.integers(3))] for _ in cases]
    return [p for p, _ in cases], [a for _, a in cases], kinds


def merged(ranks: list[VQAAccuracy]) -> VQAAccuracy:
    """A metric whose sync gathers the states of all ranks, as a process group would."""
    gathered = {}
    for name in ("score_sums", "counts"):
        gathered[id(getattr(ranks[0], name))] = [getattr(rank, name) for rank in ranks]
    ranks[0].dist_sync_fn = lambda state, group: gathered[id(state)]
    ranks[0].distributed_available_fn = lambda: True
    return ranks[0]


@pytest.mark.parametrize("reference", [True, False])
def test_metric_over_two_ranks_equals_one(reference):
    rng = named_rng(2, "ranks")
    batches = [batch(rng, size) for size in (37, 64, 5)]
    alone = VQAAccuracy(language="eu", reference=reference)
    ranks = [VQAAccuracy(language="eu", reference=reference) for _ in range(2)]
    for number, content in enumerate(batches):
        alone.update(*content)
        ranks[number % 2].update(*content)
    expected, found = alone.compute(), merged(ranks).compute()
    assert set(expected) == {"accuracy", "yes/no", "number", "other"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)
    scores = [alone.score(p, a) for content in batches for p, a in zip(*content[:2], strict=True)]
    assert float(expected["accuracy"]) == pytest.approx(100 * sum(scores) / len(scores))


def test_a_rank_without_items_adds_nothing():
    ranks = [VQAAccuracy(), VQAAccuracy()]
    ranks[0].update(["dog"], [["dog"] * 10], ["other"])
    result = merged(ranks).compute()
    assert result == {"accuracy": 100.0, "other": 100.0}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_refuses_nothing_and_unknown_types():
    with pytest.raises(DataError, match="no items"):
        VQAAccuracy().compute()
    with pytest.raises(DataError, match="answer type 'choice'"):
        VQAAccuracy().update(["x"], [["x"] * 10], ["choice"])


def test_language_aware_score_keeps_basque_apart():
    answers = ["TB-a"] * 10
    aware = VQAAccuracy(language="eu", reference=False)
    assert aware.score("tb-a.", answers) == 1
    assert aware.score("gorri", ["gorria"] * 10) == 1
    assert VQAAccuracy(language="eu", reference=False, relaxed=False).score(
        "gorri", ["gorria"] * 10
    ) == pytest.approx(0)
    assert VQAAccuracy(language="eu").score("gorri", ["gorria"] * 10) == 0
