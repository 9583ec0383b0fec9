"""Character classes and replacements that work in any script."""

import unicodedata

_LAST_DIGITS = 0x20000
"""No script has decimal digits at or above this code point (Unicode 16)."""

ASCII_NUMBERS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x80, _LAST_DIGITS)
    if unicodedata.category(chr(code)) == "Nd"
} | {0x066B: ".", 0x066C: ","}
"""For `str.translate`: digits of every script, and the Arabic number separators."""

INVISIBLE = dict.fromkeys(
    [0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
)
"""For `str.translate`: direction marks and line-break hints. The joiners of Indic and Arabic
scripts are not included, because they change a word."""


def is_in_word(letter: str) -> bool:
    """Return whether a character is part of a word: a letter, a digit, or a mark on one.

    `str.isalnum` and regular expressions' word characters exclude most Indic vowel signs.
    """
    return unicodedata.category(letter)[0] in "LMN"


def split_words(text: str) -> list[str]:
    """Split a text into words; all characters between words are dropped."""
    return "".join(letter if is_in_word(letter) else " " for letter in text).split()
