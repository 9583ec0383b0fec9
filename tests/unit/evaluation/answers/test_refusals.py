"""Refusals, and the phrase patterns that recognise them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.languages import FOLDER
from evaluation.answers.phrases import compile_phrases, plain_text, split_clauses
from evaluation.answers.refusals import RefusalDetector
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.prompting import load_prompts

CODES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
BOOK = load_prompts(CODES)


@pytest.mark.parametrize(
    ("phrase", "text", "is_found"),
    [
        ("don't know", "I dont know", True),
        ("don't know", "I don\u2019t know!", True),
        ("don't know", "I don't knowingly", False),
        ("see ... image*", "see images", True),
        ("see ... image*", "see any of the images", True),
        ("see ... image*", "see it in one of these images", False),
        ("irudi*", "irudirik", True),
        ("irudi*", "irudi", True),
        ("irudi*", "errudi", False),
        ("ez dakit", "ez dakite", False),
    ],
)
def test_phrase_patterns(phrase, text, is_found):
    assert (compile_phrases((phrase,)).search(plain_text(text)) is not None) is is_found


@pytest.mark.parametrize("phrase", ["... image", "see ...", "", "see * image", "?"])
def test_invalid_phrases_are_errors(phrase):
    with pytest.raises(ConfigError, match="phrase"):
        compile_phrases((phrase,))


def test_an_invalid_phrase_of_a_file_names_the_file(tmp_path):
    (tmp_path / "xx").mkdir()
    (tmp_path / "xx" / "prompts.yaml").write_text("refusal_phrases: ['... x']")
    with pytest.raises(ConfigError, match=r"xx/prompts\.yaml: phrase"):
        load_prompts(["xx"], folder=tmp_path)


def test_clauses_keep_the_marks_before_them():
    assert split_clauses("Ez, 3,5 da: (B)\n**x-y** - z.") == [
        ("", "Ez"),
        (",", " 3,5 da"),
        (":(", "B"),
        (")\n**", "x-y"),
        ("**-", " z"),
    ]


def test_a_language_without_phrases_has_no_refusals():
    assert not RefusalDetector({"en": ("no idea",)}).is_refusal("no idea", "eu")
    assert not RefusalDetector({"en": ()}).is_refusal("", "en")


@pytest.mark.parametrize("code", CODES)
def test_every_language_recognises_its_refusals(code):
    phrases = BOOK.refusal_phrases[code]
    assert len(phrases) >= 30
    detector, parser = RefusalDetector(BOOK.refusal_phrases), YesNoParser(BOOK.yes_no_words)
    for phrase in phrases:
        reply = phrase.replace("...", "").replace("*", "").capitalize() + "."
        assert detector.is_refusal(reply, code)
        assert parser.parse(reply, code) is None


@given(st.text(), st.sampled_from(CODES))
def test_foreign_text_is_never_an_error(text, code):
    detector, parser = RefusalDetector(BOOK.refusal_phrases), YesNoParser(BOOK.yes_no_words)
    if detector.is_refusal(text, code):
        assert parser.parse(text, code) is not False
    assert parser.parse(text.upper(), code) in {True, False, None}


@given(st.text(max_size=20), st.sampled_from(CODES), st.data())
def test_no_ending_turns_a_refusal_into_a_no(text, code, data):
    phrases = [phrase for phrase in BOOK.refusal_phrases[code] if not phrase.endswith(".")]
    phrase = data.draw(st.sampled_from(phrases))
    reply = f"{phrase.replace('...', '').replace('*', '')}. {text}"
    assert YesNoParser(BOOK.yes_no_words).parse(reply, code) is None
