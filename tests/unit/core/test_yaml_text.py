"""YAML values are converted by the types of their fields; words of any language stay words."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import load_config
from core.errors import ConfigError
from core.yaml_text import parse_yaml, read_yaml

WORDS = (
    "no", "yes", "on", "off", "null", "Null", "true", "True", "n", "y", "~", "NO", "Yes",
    "010", "1:30", "0x10", "1_0", "1e3", ".inf", "2026-11-29", "<<", "=",
)  # fmt: skip
LANGUAGES = Path(__file__).parents[3] / "languages"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    count: int = 1
    rate: float = 1.0
    is_on: bool = False
    word: str = ""
    maybe: int | None = 3


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
        ("is_on=yes", "is_on is 'yes'; expected true or false"),
        ("word=[a]", "word is a list; expected a single value"),
        ("cuont=1", "unknown key 'cuont'. Did you mean 'count'"),
        ("word='a", "is not YAML"),
    ],
)
def test_type_errors_name_the_key_the_value_and_the_fix(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(Section, overrides=[override])
    assert "OmegaConf" not in str(raised.value)


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_no_value_where_a_field_is_optional(text: str) -> None:
    assert load_config(Section, overrides=[f"maybe={text}"]).maybe is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words: bat", "words is 'bat'; expected a list"),
        ("section: 3", "section is '3'; expected a section"),
        ("section: [3]", "section is a list; expected a section"),
        ("section:\n  count: 1\n  count: 2", "'section.count' appears again in line 3"),
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
