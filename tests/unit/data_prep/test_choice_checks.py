"""Rules that see no image find faults of multiple-choice questions, and none in data/culture."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from core.rng import named_rng
from data_prep.choice_checks import ChoiceQuestion, revealing_rules, text_only_rules

CULTURE = Path("data/culture")
LANGUAGES = ("eu", "en")


def read_culture(code: str) -> list[dict[str, str]]:
    with (CULTURE / f"{code}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def culture_questions(code: str) -> list[ChoiceQuestion]:
    return [
        make(row["question"], row["choices"].split("|"), int(row["correct_choice"]))
        for row in read_culture(code)
    ]


def make(question: str, choices: list[str], correct: int) -> ChoiceQuestion:
    return ChoiceQuestion(question=question, choices=tuple(choices), correct_choice=correct)


def found(questions: list[ChoiceQuestion]) -> set[str]:
    return {rule.name for rule in revealing_rules(text_only_rules(questions))}


def random_questions(seed: int, count: int = 60) -> list[ChoiceQuestion]:
    rng = named_rng(seed, "questions")
    return [
        make(f"zer {n}", [f"{word}{'x' * int(rng.integers(5))}{n}" for word in "abcd"], correct)
        for n, correct in enumerate(rng.integers(4, size=count).tolist())
    ]


@pytest.mark.slow
def test_random_questions_are_rarely_reported():
    """Expect at most 5 % of the sets: more than 20 of 200 would have a probability below 0.001."""
    assert sum(bool(found(random_questions(seed))) for seed in range(200)) <= 20


@pytest.mark.parametrize(
    ("rule", "question"),
    [
        ("always the same letter", lambda n: make(f"zer {n}", [f"{w}{n}" for w in "abcd"], 2)),
        ("letter by row number", lambda n: make(f"zer {n}", [f"{w}{n}" for w in "abcd"], n % 4)),
        (
            "longest option",
            lambda n: make("zer", [f"{w}{'xx' * (w == 'c')}" for w in _turned(n)], _at(n)),
        ),
        (
            "shortest option",
            lambda n: make("zer", [f"{w}{'xx' * (w != 'c')}" for w in _turned(n)], _at(n)),
        ),
        (
            "option with the rarest ending",
            lambda n: make(
                "zer", [f"{w}{'ean' if w == 'c' else 'koa'}" for w in _turned(n)], _at(n)
            ),
        ),
        (
            "option with words of the question",
            lambda n: make("zein da c hori", list(_turned(n)), _at(n)),
        ),
        ("option that is often right elsewhere", lambda n: make("zer", list(_turned(n)), _at(n))),
        (
            "right option of the most similar question",
            lambda n: make(f"zer {n // 2}", [f"{w}{n // 2}" for w in _turned(n)], _at(n)),
        ),
    ],
)
def test_each_rule_finds_its_fault(rule, question):
    assert rule in found([question(n) for n in range(48)])


def _turned(n: int) -> str:
    """Return the letters abcd from a varying start; c is right."""
    start = int(named_rng(n, "start").integers(4))
    return "abcd"[start:] + "abcd"[:start]


def _at(n: int) -> int:
    return _turned(n).index("c")


@pytest.mark.parametrize("code", LANGUAGES)
def test_culture_questions_cannot_be_answered_from_their_text(code):
    """Items with the same text have every option right equally often: no text-only rule helps."""
    questions = culture_questions(code)
    by_text: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for one in questions:
        by_text[one.question, one.choices].append(one.correct_choice)
    assert len(by_text) == 16
    for correct in by_text.values():
        assert sorted(correct) == [0, 1, 2, 3]
    rules = text_only_rules(questions)
    assert not revealing_rules(rules)
    assert all(rule.accuracy <= 0.3 for rule in rules)
    positions = [one.correct_choice for one in questions]
    assert set(Counter(positions).values()) == {16}


def test_culture_languages_have_the_same_images_and_options():
    basque, english = (read_culture(code) for code in LANGUAGES)
    for first, second in zip(basque, english, strict=True):
        for column in ("question_id", "image", "topic", "correct_choice"):
            assert first[column] == second[column]
        assert first["choices"].count("|") == second["choices"].count("|") == 3
        assert (CULTURE / first["image"]).is_file()
    pairs = {(a["choices"], b["choices"]) for a, b in zip(basque, english, strict=True)}
    assert len(pairs) == 16
    used = {row["image"] for row in basque}
    assert used == {f"images/{path.name}" for path in (CULTURE / "images").iterdir()}


def test_basque_options_of_a_culture_question_have_one_case():
    cases = {
        "Nork erabiltzen du irudian agertzen dena?": "ak",
        "Zein herritan dago irudian agertzen denari lotutako museo bat?": "n",
    }
    checked = 0
    for one in culture_questions("eu"):
        if (ending := cases.get(one.question)) is not None:
            assert all(option.endswith(ending) for option in one.choices)
            checked += 1
        assert "irudi" in one.question
    assert checked == 8
