"""Answer rules by language: Basque, English, word lists and the neutral fallback."""

import pytest

from core.errors import ConfigError
from evaluation.answers.languages import basque
from evaluation.answers.registry import coded_rules, rule_for
from evaluation.answers.rule import normalise_neutral
from evaluation.metrics.vqa import aware_score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bai.", "bai"),
        ("  EZ!\n", "ez"),
        ("TB-a", "tb-a"),
        ("TB\u2011a", "tb-a"),
        ("3,5", "3,5"),
        ("1.000.", "1.000"),
        ("zuri-beltza", "zuri-beltza"),
        ("l\u2019home", "l'home"),
        ("- etxe -", "etxe"),
        ("gorria, urdina", "gorria urdina"),
        ("50%", "50%"),
        ("a<b>=`c`", "a b c"),
        ("cafe\u0301", "café"),
        ("¿Qué?", "qué"),
        ("რა არის?", "რა არის"),
        ("...", ""),
        ("\u09e9\u099f\u09bf", "3\u099f\u09bf"),  # Bengali digits
        ("\u06f3\u066b\u06f5", "3.5"),  # Persian
        ("\u200f\u05db\u05dc\u05d1\u200e.", "\u05db\u05dc\u05d1"),  # direction marks
        ("\u0915\u093e-\u0928\u093e", "\u0915\u093e-\u0928\u093e"),
    ],
)
def test_neutral_normalisation(text, expected):
    assert normalise_neutral(text) == expected
    assert normalise_neutral(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hiru.", "3"),
        ("huts", "0"),
        ("zero", "0"),
        ("hamar etxe", "10 etxe"),
        ("bat", "1"),
        ("etxe bat", "etxe bat"),
        ("bi txakur", "2 txakur"),
        ("TB-a", "tb-a"),
        ("3,5", "3,5"),
        ("a", "a"),
    ],
)
def test_basque_normalisation(text, expected):
    assert basque.normalise(text) == expected


def test_all_basque_numerals():
    words = [
        "zero",
        "bat",
        "bi",
        "hiru",
        "lau",
        "bost",
        "sei",
        "zazpi",
        "zortzi",
        "bederatzi",
        "hamar",
    ]
    assert [basque.normalise(word) for word in words] == [str(i) for i in range(11)]


@pytest.mark.parametrize(
    ("prediction", "answer", "is_match"),
    [
        ("gorri", "gorria", True),
        ("gorriak", "gorria", True),
        ("txakur", "txakurra", True),
        ("txakurrak", "txakur", True),
        ("neska", "neskak", True),
        ("TB", "TB-a", True),
        ("sagar gorria", "sagar gorri", True),
        ("sagarra gorria", "sagar gorria", False),
        ("ur", "ura", True),
        ("bar", "barra", True),  # the documented limitation
        ("etxe", "etxeko", False),
        ("a", "", False),
        ("", "", False),
        ("3", "hiru", True),
        ("katu", "txakur", False),
        ("bai", "ba", False),
        ("da", "d", False),
    ],
)
def test_the_relaxed_rule_matches_definite_and_bare_forms(prediction, answer, is_match):
    assert rule_for("eu").matches(prediction, answer) is is_match
    assert rule_for("eu").matches(answer, prediction) is is_match


def test_the_strict_rule_distinguishes_forms():
    assert not rule_for("eu", relaxed=False).matches("gorri", "gorria")
    assert rule_for("eu", relaxed=False).matches("Gorria!", "gorria")


def test_languages_without_rules_have_the_neutral_rule():
    assert rule_for("cy").matches("Ci.", "ci")
    assert not rule_for("cy").matches("a dog", "dog")
    assert rule_for("en").matches("a dog", "dog")
    assert aware_score("კატა!", ["კატა"] * 10, rule_for("ka")) == 1


def test_every_language_module_is_found_by_its_name():
    assert set(coded_rules()) >= {"basque", "english"}
    assert coded_rules()["basque"] is basque.RULES


def test_a_file_may_list_number_words_and_articles(tmp_path):
    (tmp_path / "xx").mkdir()
    path = tmp_path / "xx" / "answers.yaml"
    path.write_text(
        """numerals: [zero, u, dos]\nmore_numerals: {una: 1}\narticles: [el, "l'", una]\n"""
    )
    rule = rule_for("xx", folder=tmp_path)
    assert rule.matches("Dos.", "2")
    assert rule.matches("una", "1")
    assert rule.matches("el gos", "gos")
    assert rule.matches("l'home", "Home")
    assert not rule.matches("la casa", "casa")
    strict = rule_for("xx", folder=tmp_path, relaxed=False)
    assert strict.matches("DOS", "2")
    assert not strict.matches("el gos", "gos")


def test_an_unknown_rule_is_reported_with_a_suggestion(tmp_path):
    (tmp_path / "yy").mkdir()
    (tmp_path / "yy" / "answers.yaml").write_text("rule: basqe\n")
    with pytest.raises(ConfigError, match="Did you mean 'basque'"):
        rule_for("yy", folder=tmp_path)
