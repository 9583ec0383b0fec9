"""Every branch of the parsers of free replies to closed questions."""

import pytest

from core.errors import ConfigError
from evaluation.answers.choices import ParsedBy, parse_choice
from evaluation.answers.yes_no import YesNoParser, YesNoPolicy, YesNoWords

ANIMALS = ["txakur", "katu", "etxe gorria", "Hot dog"]
WORDS = {
    "en": YesNoWords(yes=("yes",), no=("no",)),
    "eu": YesNoWords(yes=("bai",), no=("ez",)),
}


@pytest.mark.parametrize(
    ("reply", "index", "by"),
    [
        ("katu", 1, ParsedBy.TEXT),
        (" KATU.\n", 1, ParsedBy.TEXT),
        ("hot dog!", 3, ParsedBy.TEXT),
        ("B", 1, ParsedBy.LETTER),
        ("b", 1, ParsedBy.LETTER),
        ("B.", 1, ParsedBy.LETTER),
        ("(B)", 1, ParsedBy.LETTER),
        ("c) etxe", 2, ParsedBy.LETTER),
        ("D: hot dog", 3, ParsedBy.LETTER),
        ("A. katu", 0, ParsedBy.LETTER),  # the letter decides, as in the LLaVA protocol
        ("E", None, ParsedBy.NOTHING),  # no fifth choice
        ("B da", None, ParsedBy.NOTHING),  # a word may begin a sentence with one letter
        ("B.C", None, ParsedBy.NOTHING),
        ("txakurra da", 0, ParsedBy.SUBSTRING),
        ("Hau katua da", 1, ParsedBy.SUBSTRING),
        ("etxe", 2, ParsedBy.SUBSTRING),
        ("txakur edo katu", None, ParsedBy.NOTHING),
        ("zaldi", None, ParsedBy.NOTHING),
        ("", None, ParsedBy.NOTHING),
        ("...", None, ParsedBy.NOTHING),
    ],
)
def test_parse_choice(reply, index, by):
    parsed = parse_choice(reply, ANIMALS)
    assert (parsed.index, parsed.by) == (index, by)


def test_the_longer_of_two_choices_at_one_place_counts():
    assert parse_choice("a red apple pie", ["apple", "red apple"]).index == 1
    assert parse_choice("a carpet", ["car", "carpet"]).index == 1
    assert parse_choice("a car and a carpet", ["car", "carpet"]).index is None


def test_a_substring_begins_a_word():
    assert parse_choice("concatenate", ["cat", "dog"]).index is None
    assert parse_choice("cats", ["cat", "dog"]).index == 0


def test_a_number_is_not_found_in_another():
    choices = ["1", "3", "12.5", "5"]
    found = {reply: parse_choice(reply, choices).index for reply in ("12", "1.5", "12.5", "3ak")}
    assert found == {"12": None, "1.5": None, "12.5": 2, "3ak": 1}
    assert parse_choice("about $5", choices).index == 3
    assert parse_choice("50", ["50%", "60%"]).index == 0


def test_vowel_signs_belong_to_words():
    assert parse_choice("\u0916\u093e\u0928\u093e", ["\u0928\u093e", "x"]).index is None
    assert parse_choice("\u0928\u093e", ["\u0916\u093e\u0928\u093e", "x"]).index is None
    assert parse_choice("\u0928\u093e x", ["\u0928\u093e", "y"]).index == 0


def test_equal_choices_are_never_guessed():
    assert parse_choice("katu", ["katu", "Katu", "txakur"]).index is None


def test_a_choice_that_looks_like_a_letter_is_read_as_text_first():
    assert parse_choice("A", ["x", "a"]).by is ParsedBy.TEXT
    assert parse_choice("A", ["x", "a"]).index == 1


@pytest.mark.parametrize(
    ("reply", "language", "expected"),
    [
        ("Bai.", "eu", True),
        ("EZ", "eu", False),
        ("ez, ez da txakurra", "eu", False),
        ("Ez, bai dela uste dut", "eu", False),  # the first word decides
        ("txakurra da, bai", "eu", True),
        ("noski ez", "eu", False),
        ("beno, bai eta ez", "eu", None),
        ("yes", "eu", None),
        ("no", "eu", None),
        ("baina", "eu", None),
        ("", "eu", None),
        ("Yes, there is no doubt", "en", True),
        ("bai", "en", None),
    ],
)
def test_parse_yes_no_in_the_asked_language(reply, language, expected):
    assert YesNoParser(WORDS).parse(reply, language) is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Ydy", True),
        ("Nac ydy.", False),
        ("nac", None),  # half of a phrase has no meaning
        ("nac ydy, ydy", None),  # a contradiction
        ("nac ydy, ydy wir", False),  # what it begins with decides
        ("Mae'n wir: nac ydy", False),
        ("wel, ydy; neu nac ydy", None),
        ("ydynt", None),
        ("Na", False),
    ],
)
def test_parse_yes_no_of_several_words(reply, expected):
    words = {"cy": YesNoWords(yes=("Ydy", "oes"), no=("Nac ydy", "na"))}
    assert YesNoParser(words).parse(reply, "cy") is expected


def test_any_language_is_accepted_by_policy():
    parser = YesNoParser(WORDS, policy=YesNoPolicy.ANY_LANGUAGE)
    assert parser.parse("yes", "eu") is True
    assert parser.parse("ez", "en") is False


def test_the_language_of_the_question_takes_precedence_for_a_shared_word():
    words = {**WORDS, "xx": YesNoWords(yes=("no",), no=("yes",))}
    parser = YesNoParser(words, policy=YesNoPolicy.ANY_LANGUAGE)
    assert parser.parse("no", "xx") is True
    assert YesNoParser(words).parse("no", "en") is False


def test_a_language_without_yes_and_no_is_an_error():
    with pytest.raises(ConfigError, match=r"yes_words and no_words to .*/ga"):
        YesNoParser(WORDS).parse("bai", "ga")
