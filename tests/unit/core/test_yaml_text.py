"""YAML values are converted by the types of their fields; words of any language stay words."""

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import yaml_text
from core.config import load_config
from core.errors import ConfigError
from core.yaml_text import parse_yaml, read_yaml, type_at

WORDS = (
    "no", "yes", "on", "off", "null", "Null", "true", "True", "n", "y", "~", "NO", "Yes",
    "010", "1:30", "0x10", "1_0", "1e3", ".inf", "2026-11-29", "<<", "=",
)  # fmt: skip
WORDS_OF_LANGUAGES = (
    "no nei ja på av en to null",  # Norwegian
    "evet hayır on sıfır bir yok var",  # Turkish  # noqa: RUF001
    "ja nein an aus null ein",  # German
    "ei jah null üks sees väljas",  # Estonian
    "no si non on off yes y n Y N NO On OFF",
    "true True TRUE false False FALSE null Null NULL ~ NaN nan .nan inf .inf -.inf",
    "1e3 012 0o12 12:30 12:30:45 1_000 0x1F 0b1 -0 +1 1. .5 2026-11-29 2026-11-29T12:00:00Z",
    "= << a=b a:b a#b -1-",
)
"""Words, numbers and marks that YAML 1.1 or its parsers do not read as texts."""
CODES = [
    *(a + b for a in ascii_lowercase for b in ascii_lowercase),
    *("eus", "nor", "nob", "nno", "nan", "inf", "yes", "off", "tru", "null", "zh-Hant", "pt-BR"),
]
LANGUAGES = Path(__file__).parents[3] / "languages"


class Mode(StrEnum):
    NO = "no"
    SLOW = "slow"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    count: int = 1
    rate: float = 1.0
    is_on: bool = False
    word: str = ""
    maybe: int | None = 3
    mode: Mode = Mode.SLOW
    modes: dict[Mode, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything:
    words: list[str] = dataclasses.field(default_factory=list)
    by_word: dict[str, float] = dataclasses.field(default_factory=dict)
    sections: dict[str, Section] = dataclasses.field(default_factory=dict)
    section: Section = dataclasses.field(default_factory=Section)
    anything: Any = None


@pytest.mark.parametrize("word", WORDS)
def test_a_word_in_a_text_field_is_a_text(tmp_path: Path, word: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"words: [{word}, a]\nsection: {{word: {word}}}\nsections: {{{word}: {{}}}}\n")
    loaded = load_config(Everything, path)
    assert loaded.words == [word, "a"]
    assert loaded.section.word == word
    assert list(loaded.sections) == [word]
    assert load_config(Everything, overrides=[f"section.word={word}"]).section.word == word


@pytest.mark.parametrize("words", WORDS_OF_LANGUAGES)
def test_words_of_languages_stay_texts_in_files_and_on_the_command_line(
    tmp_path: Path, words: str
) -> None:
    plain = words.split()
    path = tmp_path / "a.yaml"
    keys = "".join(f"  {word}: {{word: {word}}}\n" for word in plain)
    path.write_text(f"words: [{', '.join(plain)}]\nsections:\n{keys}")
    loaded = load_config(Everything, path)
    assert loaded.words == plain
    assert {key: section.word for key, section in loaded.sections.items()} == {
        word: word for word in plain
    }
    for word in plain:
        override = (f"words=[{word}]", f"section.word={word}", f"sections={{{word}: {{}}}}")
        loaded = load_config(Everything, overrides=override)
        assert (loaded.words, loaded.section.word, [*loaded.sections]) == ([word], word, [word])


def test_quoted_words_with_marks_of_yaml_stay_texts() -> None:
    words = "'#b', '@at', '`x`', '- a', \"a\\\\${x}\", '${'"
    loaded = load_config(Everything, overrides=[f"words=[{words}]"])
    assert loaded.words == ["#b", "@at", "`x`", "- a", "a\\${x}", "${"]


def test_language_codes_stay_texts_in_files_and_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("by_word:\n" + "".join(f"  {code}: 1\n" for code in CODES))
    assert list(load_config(Everything, path).by_word) == CODES
    for code in CODES:
        schema = type_at(Everything, ["section", "word"])
        assert parse_yaml(code, schema, where="--set") == code


@pytest.mark.slow
@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=30))
def test_any_quoted_text_is_kept(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert load_config(Everything, overrides=[f"section.word={quoted}"]).section.word == text


@pytest.mark.parametrize("number", ["0600", "010"])
def test_numbers_are_decimal(number: str) -> None:
    assert load_config(Section, overrides=[f"count={number}"]).count == int(number)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("count=1:30", "count is '1:30'; expected a whole number"),
        ("count=0x10", "count is '0x10'; expected a whole number"),
        ("count=1.5", "count is '1.5'; expected a whole number"),
        ("rate=fast", "rate is 'fast'; expected a number"),
        ("rate=.inf", "rate is '.inf'; expected a number"),
        ("rate=!!python/object:os.system 1", "python/object:os.system'; remove it"),
        ("rate=!fast 1", "has the tag '!fast'; remove it"),
        ("is_on=yes", "is_on is 'yes'; expected true or false"),
        ("word=[a]", "word is a list; expected a single value"),
        ("word.x=1", "'word.x' does not exist: 'word' has no keys"),
        ("count=", "count is empty; expected a whole number"),
        ("count=${x}", "count is '.{x}'; expected a whole number"),
        pytest.param("count=" + "9" * 5000, "count is '9{40}'; expected", id="digits"),
        ("rate=1_", "rate is '1_'; expected a number"),
        ("rate=1e999", "rate is '1e999'; expected a number"),
        ("rate=NaN", "rate is 'NaN'; expected a number"),
        ("mode=fast", "mode: unknown value 'fast'.*Known: no, slow"),
        ("modes={fast: 1}", "modes: unknown value 'fast'.*Known: no, slow"),
        ("cuont=1", "unknown key 'cuont'. Did you mean 'count'"),
        ("word='a", "is not YAML"),
    ],
)
def test_type_errors_name_the_key_the_value_and_the_fix(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(Section, overrides=[override])
    assert not re.search("OmegaConf|DictConfig|object_type|full_key", str(raised.value))


def test_a_word_may_be_the_value_of_a_choice() -> None:
    loaded = load_config(Section, overrides=["mode=no", "modes={no: 1}"])
    assert (loaded.mode, loaded.modes) == (Mode.NO, {Mode.NO: 1})


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_no_value_where_a_field_is_optional(text: str) -> None:
    assert load_config(Section, overrides=[f"maybe={text}"]).maybe is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words: bat", "words is 'bat'; expected a list"),
        ("section: 3", "section is '3'; expected a section"),
        ("section: [3]", "section is a list; expected a section"),
        (r'words: ["\ud83d"]', "half of a surrogate pair"),
        (r'words: ["a\0b"]', "NUL character"),
        ("section:\n  count: 1\n  count: 2", "'section.count' is repeated in line 3"),
        ("by_word: {no: much}", "by_word.no is 'much'; expected a number"),
        (
            "sections: {no: {rat: 1}}",
            "unknown key 'sections.no.rat'. Did you mean 'sections.no.rate'",
        ),
    ],
)
def test_errors_in_files_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(Everything, path)
    assert "broken.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[no, on, 010, 1:30, 7, -2, 1.5, 1e-3, .5, true, null, '7', ~]",
         ["no", "on", "010", "1:30", 7, -2, 1.5, 1e-3, 0.5, True, None, "7", None]),
        ("{no: yes, 1: 2}", {"no": "yes", 1: 2}),
        ("", None),
    ],
)  # fmt: skip
def test_values_without_a_type_follow_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text, where="here") == value


def test_aliases_of_aliases_do_not_expand_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "_MAX_VALUES", 1000)
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    with pytest.raises(ConfigError, match="more than 1,000 values; do not repeat aliases"):
        parse_yaml("\n".join(lines), where="here")


def test_language_files_hold_texts_and_numbers_only() -> None:
    def leaves(node: Any) -> list[Any]:
        if isinstance(node, dict):
            return [leaf for one in node.items() for leaf in leaves(list(one))]
        return [x for one in node for x in leaves(one)] if isinstance(node, list) else [node]

    files = sorted(LANGUAGES.glob("*/*.yaml"))
    assert len(files) >= 16
    for path in files:
        assert not any(isinstance(leaf, bool) for leaf in leaves(read_yaml(path))), path


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_is_read_or_a_config_error(text: str) -> None:
    try:
        parse_yaml(text, where="here")
        parse_yaml(text, Everything, where="here")
    except ConfigError:
        pass
