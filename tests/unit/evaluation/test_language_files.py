"""Damaged language files: one error that names the file, the key and the fix."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ConfigError, DataError
from core.languages import ANSWERS, DATA, FOLDER, PROMPTS, TRANSLATION
from data_prep.embedded import wordings
from data_prep.prepare.translation.prompts import load_prompt
from evaluation.answers.registry import rule_for
from evaluation.benchmarks.prompting import load_prompts

LANGUAGES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def load_wordings(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordings, "FOLDER", folder)
        wordings.load_language("es")


READERS: dict[str, Callable[[Path], object]] = {
    ANSWERS: lambda folder: rule_for("es", folder=folder),
    PROMPTS: lambda folder: load_prompts(["es"], style="instructed", folder=folder),
    TRANSLATION: lambda folder: load_prompt("es", folder),
    DATA: load_wordings,
}


def error_of(tmp_path: Path, name: str, content: bytes) -> str:
    """Return the error of the reader of a file in `languages/es`."""
    folder = tmp_path / "es"
    shutil.copytree(FOLDER / "es", folder, dirs_exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError)) as raised:
        READERS[name](tmp_path)
    return str(raised.value)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda text: (text + "# Español\n").encode("cp1252"), "is not UTF-8"),
        (lambda text: text.encode("utf-16"), "is not UTF-8"),
        (lambda text: b"- one\n- two\n", "is a list; expected a section"),
        (lambda text: b"just words\n", "expected a section with keys"),
        (lambda text: text.encode() + b"unknown_key: 1\n", "unknown key 'unknown_key'"),
        (lambda text: text.encode() + b"\x00", "is not YAML"),
        (lambda text: text.encode() + b"a: [1\n", "is not YAML"),
        (lambda text: text.replace(":", ":\t{", 1).encode(), "is not YAML"),
        (lambda text: text.encode() + text.encode(), "is repeated"),
    ],
)
def test_a_file_that_is_damaged_as_a_whole(
    tmp_path: Path, name: str, damage: Callable[[str], bytes], expected: str
) -> None:
    text = (FOLDER / "es" / name).read_text(encoding="utf-8")
    message = error_of(tmp_path, name, damage(text))
    assert expected in message
    assert str(tmp_path / "es" / name) in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (ANSWERS, "numerals: cero", "numerals is 'cero'; expected a list"),
        (ANSWERS, "numerals: [[cero]]", "numerals[0] is a list"),
        (ANSWERS, "numerals: [cero, uno, Cero]", "'Cero' stands for 2, but also for 0"),
        (ANSWERS, "numerals: [cero, '...']", "numerals: '...' has no letters"),
        (ANSWERS, "numerals: [veintiuno mil]", "'veintiuno mil' is several words"),
        (ANSWERS, "more_numerals: {uno: one}", "more_numerals.uno is 'one'; expected a whole"),
        (ANSWERS, "more_numerals: {menos: -1}", "'menos' is -1, expected 0 or more"),
        (ANSWERS, "more_numerals: [uno]", "more_numerals is a list"),
        (ANSWERS, "articles: [el, '']", "articles: '' has no letters"),
        (ANSWERS, "percent_words: ['%%', '??']", "percent_words: '??' has no letters"),
        (ANSWERS, "initial_changes: {c: g}", "initial_changes.c is 'g'; expected a list"),
        (ANSWERS, "initial_changes: {c: ['(']}", "initial_changes.c: '(' has no letters"),
        (ANSWERS, "rule: basq", "unknown rule 'basq'. Did you mean 'basque'?"),
        (ANSWERS, "rule: basque\narticles: [el]", "replaces all word lists"),
        (PROMPTS, "yes_words: sí", "yes_words is 'sí'; expected a list"),
        (PROMPTS, "yes_words: ['?']\nno_words: [no]", "has no letters"),
        (PROMPTS, "yes_words: [Sí]\nno_words: [sí]", "sí is in yes_words and in no_words"),
        (PROMPTS, "refusal_phrases: ['...']", "must begin and end with a word"),
        (PROMPTS, "refusal_phrases: ['no (']", "'(' has no letters"),
        (
            PROMPTS,
            "answer_words: [la respuesta]",
            "answer_words: 'la respuesta' is not a single word",
        ),
        (PROMPTS, "plural_endings: ['']", "plural_endings: '' is not a single word"),
        (PROMPTS, "styles: {}", "unknown prompt style 'instructed'"),
        (PROMPTS, "styles: {instructed: }", "styles.instructed is empty; expected a section"),
        (PROMPTS, "styles: {instructed: {vqa: '{question'}}", "must contain {question} once"),
        (PROMPTS, "styles: {instructed: {vqa: '{question} { x }'}}", "has '{ x }'"),
        (PROMPTS, "styles: {instructed: {vqa: '{question} }'}}", "'}', which is not a placeholder"),
        (PROMPTS, "styles: {instructed: {vqaa: '{question}'}}", "kind of benchmark 'vqaa'"),
        (TRANSLATION, "name: x", "'system' has no value"),
        (TRANSLATION, "name: x\nsystem: ' '\nexamples: []", "system is empty; give it a text"),
        (TRANSLATION, "name: x\nsystem: y\nexamples: [[a, b]]", "examples[0] is a list"),
        (TRANSLATION, "name: x\nsystem: y\nexamples: [{source: a}]", "translation"),
        (TRANSLATION, "name: x\nsystem: y\nexamples: []\nwords: {yes: ''}", "words.yes is empty"),
        (DATA, "name: x\nhelp: null", "'cldr' is missing"),
        (DATA, "", "data.yaml is empty; expected a section"),
    ],
)
def test_an_entry_that_is_wrong(tmp_path: Path, name: str, content: str, expected: str) -> None:
    message = error_of(tmp_path, name, content.encode())
    assert expected in message
    assert str(tmp_path / "es" / name) in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{a}; {b}", "{a; {b}", "a placeholder is a name in braces"),
        ("{a}; {b}", "{}; {b}", "has the placeholders"),
        ("numbers: [", "numbers: ['', ", "'numbers[0]' is empty"),
        ("name: ", "name: ''  # ", "'name' is empty; give it a text"),
        ("cldr: es", "cldr: es\nhelp: {package: x}", "'help.folder' is missing"),
    ],
)
def test_wordings_that_could_not_be_used(tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = (FOLDER / "es" / DATA).read_text(encoding="utf-8")
    if "help:" in new:
        text = "\n".join(line for line in text.split("\n") if not line.startswith("help:"))
    assert old in text
    assert expected in error_of(tmp_path, DATA, text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("codepoints\tname\n1f34e\tmanzaña\n".encode("cp1252"), "is not a table in UTF-8"),
        (b"codepoints,name\n1f34e,manzana\n", "has the columns codepoints,name"),
        (b"codepoints\tname\n1f34e\ta\n1f34e\tb\n", "line 3: 1f34e is repeated"),
        (b"codepoints\tname\n1f34e\t\n", "expected text in every column"),
    ],
)
def test_a_table_of_forms_that_is_damaged(tmp_path: Path, content: bytes, expected: str) -> None:
    folder = shutil.copytree(FOLDER / "es", tmp_path / "es")
    (folder / wordings.FORMS_FILE).write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_wordings(tmp_path)
    assert expected in str(raised.value)
    assert str(folder / wordings.FORMS_FILE) in str(raised.value)


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(
    tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(FOLDER / "es", tmp_path / "es")
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    READERS[name](tmp_path)


def test_words_are_compared_in_the_form_of_answers(tmp_path: Path) -> None:
    (tmp_path / "xx").mkdir()
    (tmp_path / "xx" / ANSWERS).write_text(
        "numerals: [Zero, Un, De\u0301u]\narticles: [EL, L\u2019]\n"
        "percent_words: ['a|b', 'per 100']\n"
    )
    rule = rule_for("xx", folder=tmp_path)
    equal = [("zero", "0"), ("d\u00e9u", "2"), ("el gat", "gat"), ("l'home", "home")]
    for prediction, answer in [*equal, ("5 a|b", "5%"), ("5 per 100", "5 %")]:
        assert rule.matches(prediction, answer), prediction
    assert not rule.matches("5 a", "5%"), "the word is not a regular expression"


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_shipped_files_are_read(language: str) -> None:
    rule_for(language)
    load_prompts([language], style="instructed")
    if (FOLDER / language / TRANSLATION).is_file():
        load_prompt(language)
    wordings.load_language(language)
