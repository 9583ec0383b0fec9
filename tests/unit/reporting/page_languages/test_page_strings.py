"""Strings files: exact texts, templates, numbers, lists, and what is rejected at load."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from reporting.page_languages.page_strings import (
    NumberFormat,
    PageStrings,
    StringsFile,
    check_page_language,
    has_words,
    known_page_languages,
    load_page_strings,
    read_strings_file,
)

NUMBERS = NumberFormat(decimal=",", group=".", percent="%\N{NO-BREAK SPACE}{n}", between="; ")
HEAD = """name: euskara
numbers: {decimal: ",", group: ".", percent: "% {n}", between: "; "}
texts:
"""


def strings(**texts: str) -> PageStrings:
    return PageStrings("eu", StringsFile(name="euskara", numbers=NUMBERS, texts=texts))


def test_exact_texts_win_over_templates_and_ignore_spacing() -> None:
    found = strings(**{"{n:number} cells": "{n} gelaxka", "2 cells": "gelaxka biak"})
    assert found.translate("2 cells") == "gelaxka biak"
    assert found.translate(" 3\N{NO-BREAK SPACE}\n cells") == "3 gelaxka"
    assert found.translate("3 cellars") is None
    assert found.translate("about 3 cells") is None


def test_the_more_literal_template_is_tried_first() -> None:
    found = strings(**{"{a} of {b}": "{b}: {a}", "{n:number} of {all:number} cells": "{all}/{n}"})
    assert found.translate("1 of 2 cells") == "2/1"
    assert found.translate("one of two") == "two: one"


def test_values_of_placeholders_are_translated_themselves() -> None:
    found = strings(
        **{
            "Claim {c:text}.": "Baieztapena: {c}.",
            "{v:text} ({p:percent})": "{v} ({p})",
            "supported": "berretsia",
        }
    )
    assert found.translate("Claim supported (12.5 %).") == (
        "Baieztapena: berretsia (%\N{NO-BREAK SPACE}12,5)."
    )
    assert found.translate("Claim denied (12.5 %).") is None  # nothing is translated in part
    assert found.translate("Claim .") == "Baieztapena: ."


def test_lists_need_no_entry_and_prefer_long_parts() -> None:
    found = strings(**{"vqa": "VQA", "on, off": "bai ala ez", "with text": "testuarekin"})
    assert found.translate("vqa, with text; vqa") == "VQA, testuarekin; VQA"
    assert found.translate("vqa, on, off") == "VQA, bai ala ez"
    assert found.translate("vqa, without text") is None


def test_labels_are_translated_or_single_words() -> None:
    found = strings(**{"{a:label} minus {b:label}": "{a} ken {b}", "the best other": "onena"})
    assert found.translate("linear minus the best other") == "linear ken onena"
    assert found.translate("vqa, linear minus the best other") is None
    assert found.translate("linear minus the worst") is None


@pytest.mark.parametrize(
    ("english", "basque"),
    [
        ("57.7", "57,7"),
        ("1,234,567", "1.234.567"),
        ("20 %", "%\N{NO-BREAK SPACE}20"),
        ("20\N{NO-BREAK SPACE}%", "%\N{NO-BREAK SPACE}20"),
        ("94\N{EN DASH}100 %", "%\N{NO-BREAK SPACE}94\N{EN DASH}100"),
        ("57.7 % [54.0, 61.1]", "%\N{NO-BREAK SPACE}57,7 [54,0; 61,1]"),
        ("\N{MINUS SIGN}1.5 [-3.0, +0.5]", "\N{MINUS SIGN}1,5 [-3,0; +0,5]"),
        ("2.10e+15", "2,10e+15"),
        ("2026-12-01 00:27", "2026-12-01 00:27"),
        ("2.13.0", "2.13.0"),
    ],
)
def test_numbers_are_written_as_in_the_language(english: str, basque: str) -> None:
    assert not has_words(english)
    assert strings().translate(english) == basque


def test_names_in_code_are_no_words() -> None:
    assert not has_words("share20_txt_s0")
    assert not has_words("figures/accuracy.png")
    assert has_words("Accuracy.")
    assert strings().translate("model.connector_2.kind") == "model.connector_2.kind"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('"{n:number} cells": "gelaxkak"', r"eu.yaml: the translation of '{n:number} cells' lacks"),
        ('"cells": "{n} gelaxka"', r"'cells' has {n}"),
        ('"{n} or {n}": "{n} edo"', r"'{n} or {n}' repeats"),
        ('"{n:count} cells": "{n} gelaxka"', r"unknown kind of placeholder 'count'"),
        ('"the <1>grid</1>": "sareta"', r"'the <1>grid</1>' lacks <1>, </1>"),
        ('"<1>a <2>b</2></1>": "<1>a <2>b</1></2>"', r"'<1>a <2>b</2></1>' overlap"),
        ('"grid": "<1/>sareta"', r"'grid' has <1/>"),
        ('"grid": ""', r"the translation of 'grid' is empty"),
    ],
)
def test_faulty_entries_are_rejected_with_file_and_text(
    tmp_path: Path, entry: str, message: str
) -> None:
    path = tmp_path / "eu.yaml"
    path.write_text(f"{HEAD}  {entry}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_strings_file(path)


def test_a_file_without_number_format_or_with_a_repeated_text_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "eu.yaml"
    path.write_text("name: euskara\ntexts: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="lacks numbers"):
        read_strings_file(path)
    path.write_text(HEAD.replace("% {n}", "%") + "  a: b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"numbers.percent is '%', without {n}"):
        read_strings_file(path)
    path.write_text(f"{HEAD}  a: b\n  a: c\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is repeated"):
        read_strings_file(path)


def test_an_unknown_language_names_the_known_ones() -> None:
    assert {"en", "eu"} <= set(known_page_languages())
    with pytest.raises(ConfigError, match=r"unknown page language 'xx'.*Known: en, eu"):
        check_page_language("xx")
    with pytest.raises(ConfigError, match="unknown page language"):
        load_page_strings("xx")
