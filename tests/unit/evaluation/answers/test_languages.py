"""Every folder of `languages/` is complete and consistent."""

import pytest

from core.languages import FOLDER, PURPOSES, missing_files
from data_prep.embedded.wordings import MODEL_LANGUAGE, load_languages
from data_prep.prepare.translation import segments
from data_prep.prepare.translation.prompts import load_prompt
from data_prep.prepare.translation.quality import identify_or_none
from evaluation.answers.registry import rule_for
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.prompting import load_prompts

CODES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
TARGETS = [code for code in CODES if code != MODEL_LANGUAGE]


def test_shipped_languages_are_found() -> None:
    assert {"en", "eu", "es", "ca", "cy"} <= set(CODES)
    assert missing_files("xx") == PURPOSES


@pytest.mark.parametrize("code", TARGETS)
def test_a_target_language_has_every_file(code: str) -> None:
    assert not missing_files(code)
    load_languages([MODEL_LANGUAGE, code])


@pytest.mark.parametrize("code", CODES)
def test_yes_no_words_and_answer_rules_work(code: str) -> None:
    book = load_prompts([code], style="instructed")
    words = book.yes_no_words[code]
    parser = YesNoParser(book.yes_no_words)
    assert parser.parse(words.yes[0], code) is True
    assert parser.parse(words.no[0], code) is False
    rule = rule_for(code)
    assert rule.matches("Abc.", "abc")
    assert not rule.matches("abc", "xyz")


@pytest.mark.parametrize("code", TARGETS)
def test_translation_examples_follow_their_own_rules(code: str) -> None:
    prompt = load_prompt(code)
    assert len(prompt.examples) >= 3
    assert set(prompt.words) == {"yes", "no"}
    assert prompt.name in prompt.system
    for source, translation in prompt.examples:
        assert source != translation
        assert segments.untouchables(source) == segments.untouchables(translation)
        assert segments.numbers(source) == segments.numbers(translation)
        assert identify_or_none(translation, (MODEL_LANGUAGE, code)) in (code, None)
