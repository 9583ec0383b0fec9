"""The official VQA score against an independent oracle, and its known quirks."""

import pytest

from core.errors import DataError
from core.rng import named_rng
from evaluation.answers.languages import english
from evaluation.answers.registry import rule_for
from evaluation.metrics.vqa import aware_score, leave_one_out, lmms_score, official_score
from tests.support import vqa_oracle

NUM_RANDOM = 100_000
_FRAGMENTS = [
    *english.PUNCTUATION_MARKS,
    *vqa_oracle.SPELLING,
    *["a", "an", "the", "The", "A", "none", "zero", "One", "two", "ten", "eleven"],
    *["1", "2", "10", "3,5", "1,,2", "1,000", "2.5", ".5", "5.", ",", "٣,٤", "²"],
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


@pytest.mark.slow
def test_scores_agree_with_the_oracle_on_a_hundred_thousand_random_and_adversarial_cases():
    rng = named_rng(0, "vqa cases")
    seen = {}
    for _ in range(NUM_RANDOM):
        prediction, answers = random_case(rng)
        expected = vqa_oracle.score(prediction, answers)
        assert official_score(prediction, answers) == expected, (prediction, answers)
        by_lmms = vqa_oracle.lmms_score(prediction, answers)
        assert lmms_score(prediction, answers) == by_lmms, (prediction, answers)
        seen[round(expected, 1)] = seen.get(round(expected, 1), 0) + 1
    # Cases that only score 0 or 1 would make this a weak comparison.
    assert min(seen[value] for value in (0.0, 0.3, 0.6, 0.9, 1.0)) > 1000


def test_normalisation_agrees_with_the_oracle():
    rng = named_rng(1, "vqa strings")
    for _ in range(5_000):
        text = english.join_lines(random_text(rng))
        assert english.normalise(text) == vqa_oracle.normal(text), text


def test_every_published_contraction_is_expanded():
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
        ("TB-a", "tb"),  # the case ending is taken for an article
        ("3,5", "35"),
        ("1,000 (ca)", "1000 ca"),
        ("a-b, c", "b c"),  # the comma touches a space and is deleted, the hyphen becomes a space
        ("a-b -c", "ab c"),  # one hyphen touches a space, so all hyphens are deleted
        ("1,2 x-y", "12 xy"),  # a digit-comma-digit deletes every mark
        ("x-y;-z", "x y z"),  # the space left by the semicolon does not delete the hyphen
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
def test_quirks_of_the_original(text, expected):
    assert english.normalise(text) == expected


def test_unanimous_answers_are_compared_without_normalisation():
    assert official_score("bai.", ["Bai"] * 10) == 0
    assert official_score("bai.", ["Bai"] * 9 + ["bai"]) == 1
    assert official_score(" Bai\n", ["Bai\t"] * 10) == 1
    assert aware_score("bai.", ["Bai"] * 10, rule_for("eu")) == 1


def test_the_score_of_lmms_eval_normalises_unanimous_answers_too():
    assert lmms_score("Bai.", ["bai"] * 10) == 1
    assert official_score("Bai.", ["bai"] * 10) == 0
    assert lmms_score("txakurra", ["txakur"] * 10) == 0
    # Several commas between digits delete every mark for lmms-eval only.
    assert english.normalise_lmms("1,,2 x-y") == "12 xy"
    assert english.normalise("1,,2 x-y") == "1 2 x y"


def test_equal_answers_are_distinguished_by_position():
    # Compared as dictionaries, a unanimous correct answer without ids would score 0.
    assert leave_one_out([True] * 10) == 1
    assert leave_one_out([True] * 5 + [False] * 5) == 1


def test_a_single_answer_is_an_exact_match_and_no_answer_an_error():
    assert official_score("etxe", ["etxe"]) == 1
    assert official_score("etxea", ["etxe"]) == 0
    with pytest.raises(DataError, match="no answers"):
        official_score("etxe", [])


def test_the_language_aware_score_applies_the_rule_of_the_language():
    rule = rule_for("eu")
    assert aware_score("tb-a.", ["TB-a"] * 10, rule) == 1
    assert aware_score("gorri", ["gorria"] * 10, rule) == 1
    assert aware_score("gorri", ["gorria"] * 10, rule_for("eu", relaxed=False)) == 0
    assert official_score("gorri", ["gorria"] * 10) == 0
