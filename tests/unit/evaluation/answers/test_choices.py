"""Every branch of the parsers of free replies to closed questions."""

import pytest

from core.errors import ConfigError
from evaluation.answers.choice_words import ChoiceWords
from evaluation.answers.choices import ParsedBy, parse_choice
from evaluation.answers.registry import rules_for
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
        ("A. katu", None, ParsedBy.NOTHING),  # the letter contradicts the text
        ("E", None, ParsedBy.NOTHING),  # no fifth choice
        ("B da", None, ParsedBy.NOTHING),  # "da" is not in the words of this test
        ("B.C", None, ParsedBy.NOTHING),
        ("txakurra da", 0, ParsedBy.WORDS),
        ("Hau katua da", 1, ParsedBy.WORDS),
        ("etxe", 2, ParsedBy.PART),
        ("txakur edo katu", None, ParsedBy.NOTHING),
        ("zaldi", None, ParsedBy.NOTHING),
        ("", None, ParsedBy.NOTHING),
        ("...", None, ParsedBy.NOTHING),
    ],
)
def test_parse_choice(reply, index, by):
    parsed = parse_choice(reply, ANIMALS, rules=rules_for("eu"))
    assert (parsed.index, parsed.by) == (index, by)


def test_the_longer_of_two_choices_at_one_place_counts():
    assert parse_choice("a red apple pie", ["apple", "red apple"]).index == 1
    assert parse_choice("a carpet", ["car", "carpet"]).index == 1
    assert parse_choice("a car and a carpet", ["car", "carpet"]).index is None


def test_words_are_whole():
    assert parse_choice("concatenate", ["cat", "dog"]).index is None
    assert parse_choice("cats", ["cat", "dog"]).index is None
    assert parse_choice("cats", ["cat", "dog"], words=ChoiceWords(plural_endings=("s",))).index == 0
    assert (
        parse_choice("gas", ["ga", "dog"], words=ChoiceWords(plural_endings=("s",))).index is None
    )


def test_a_number_is_not_found_in_another():
    choices = ["1", "3", "12.5", "5"]
    found = {reply: parse_choice(reply, choices).index for reply in ("12", "1.5", "12.5", "3,0")}
    assert found == {"12": None, "1.5": None, "12.5": 2, "3,0": None}
    assert parse_choice("about $5", choices).index == 3
    assert parse_choice("50", ["50%", "60%"]).index == 0
    assert parse_choice("12,5", choices).index == 2


def test_a_choice_with_punctuation_is_found():
    choices = ["red, white and blue", "red", "Ez dago, inor ez"]
    assert parse_choice("It is red, white and blue.", choices).index == 0
    assert parse_choice("It is red, blue", choices).index == 1


def test_negations_and_refusals_are_words_of_the_language():
    words = ChoiceWords(
        negations=("ez",), contrast_words=("baizik",), refusal_phrases=("ez dakit",)
    )
    assert parse_choice("ez da katu", ANIMALS).index == 1
    assert parse_choice("ez da katu", ANIMALS, words=words).index is None
    assert parse_choice("katu ez baizik txakur", ANIMALS, words=words).index == 0
    assert parse_choice("katu edo ez dakit", ANIMALS, words=words).index is None
    assert parse_choice("ez dakit", ["ez dakit", "katu"], words=words).index == 0


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
