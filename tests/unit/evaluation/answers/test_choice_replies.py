"""Hand-written replies to multiple-choice questions are parsed as a person reads them."""

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evaluation.answers.choices import parse_choice
from evaluation.answers.registry import rules_for
from evaluation.benchmarks.prompting import load_prompts

TABLE = Path(__file__).parent / "replies" / "choices.yaml"
GROUPS = yaml.safe_load(TABLE.read_text())
ROWS = [
    (group["language"], tuple(group["choices"]), reply, reading)
    for group in GROUPS
    for reply, reading in group["replies"].items()
]
BOOK = load_prompts(sorted({language for language, *_ in ROWS}))


def read(reply: str, choices: tuple[str, ...], language: str) -> str | None:
    words, rules = BOOK.choice_words[language], rules_for(language)
    index = parse_choice(reply, choices, words=words, rules=rules).index
    return None if index is None else string.ascii_uppercase[index]


@pytest.mark.parametrize(("language", "choices", "reply", "reading"), ROWS)
def test_a_reply_is_parsed_as_a_person_reads_it(language, choices, reply, reading):
    assert read(reply, choices, language) == reading


def test_the_table_is_large():
    assert len(ROWS) >= 300
    assert {language for language, *_ in ROWS} == {"en", "eu", "es", "ca", "cy"}


@given(
    st.text(max_size=60),
    st.lists(st.text(max_size=12), max_size=5),
    st.sampled_from(list(BOOK.choice_words)),
)
def test_foreign_text_is_never_an_error_and_never_guessed(reply, choices, language):
    words, rules = BOOK.choice_words[language], rules_for(language)
    index = parse_choice(reply, choices, words=words, rules=rules).index
    assert index is None or 0 <= index < len(choices)


@given(st.data())
def test_two_stated_letters_are_unparsed(data):
    group = data.draw(st.sampled_from(GROUPS))
    letters = data.draw(st.permutations("ABCD"[: len(group["choices"])]))
    pattern = data.draw(
        st.sampled_from(["{}, {}", "{}\n{}", "({}) ({})", "{}/{}", "**{}** **{}**"])
    )
    reply = pattern.format(*letters)
    assert read(reply, tuple(group["choices"]), group["language"]) is None


@given(st.data())
def test_a_letter_beside_the_text_of_another_choice_is_unparsed(data):
    group = data.draw(st.sampled_from([group for group in GROUPS if len(group["choices"]) == 4]))
    letter, other = data.draw(st.permutations(range(4)))[:2]
    reply = f"{'ABCD'[letter]}. {group['choices'][other]}"
    assert read(reply, tuple(group["choices"]), group["language"]) is None


@given(st.data())
def test_the_option_as_it_was_asked_is_always_read(data):
    group = data.draw(st.sampled_from(GROUPS))
    index = data.draw(st.integers(0, len(group["choices"]) - 1))
    letter, text = "ABCD"[index], group["choices"][index]
    pattern = data.draw(
        st.sampled_from(
            ["{0}", "{0}.", "({0})", "{0}. {1}", "{1}", "{1}.", "**{0}. {1}**", " {0}\n"]
        )
    )
    reply = pattern.format(letter, text)
    assert read(reply, tuple(group["choices"]), group["language"]) == letter
