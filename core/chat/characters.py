"""Characters that are written differently and mean the same, in any script."""

import unicodedata

_LAST_DIGITS = 0x20000
"""No script has decimal digits from here on (Unicode 16)."""

ASCII_NUMBERS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x80, _LAST_DIGITS)
    if unicodedata.category(chr(code)) == "Nd"
} | {0x066B: ".", 0x066C: ","}
"""For `str.translate`: the digits of every script, and the Arabic marks inside a number."""

INVISIBLE = dict.fromkeys(
    [0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
)
"""For `str.translate`: marks of direction and of where a line may break. The joiners of Indic and
Arabic writing are not among them: they change a word."""


def is_in_word(letter: str) -> bool:
    """Whether a character is part of a word: a letter, digit, or a mark on one.

    `str.isalnum` and a regular expression's word characters leave most Indic vowel signs out.
    """
    return unicodedata.category(letter)[0] in "LMN"


def words(text: str) -> list[str]:
    """The words of a text, without what stands between them."""
    return "".join(letter if is_in_word(letter) else " " for letter in text).split()
