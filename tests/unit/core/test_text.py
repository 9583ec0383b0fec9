"""Cleaning of text at the boundaries of the project."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from core.text import clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("katu bat", "katu bat"),
        (" a\n", " a\n"),
        ("\ufefftxakurra", "txakurra"),
        ("\u200b\u2060", ""),
        ("\u3164\ufffc\ufffe\u180e", ""),
        ("a\0b\x1b[0m", "ab[0m"),
        ("bat\r\nbi\rhiru\u2028lau", "bat\nbi\nhiru\nlau"),
        ("e\u0301", "\u00e9"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize("text", ["a\ud83d", "\udcff", "\ude00 b"])
def test_half_of_a_surrogate_pair_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="surrogate") as raised:
        clean_text(text)
    assert raised.value.fault == "text is not Unicode"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_cleaning_is_idempotent_and_gives_unicode(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    cleaned.encode("utf-8")
