"""Segmentation of a text into sentences to translate and parts that must stay unchanged."""

import re
from collections import Counter

from core.chat.characters import ASCII_NUMBERS

_UNTOUCHED = re.compile(
    r"""
    ```.*?```                               # code
    | `[^`\n]+`
    | <image>
    | </?[A-Za-z][^<>\n]{0,200}>            # markup
    | https?://\S+ | www\.\S+
    | \$[^$\n]{1,200}\$                     # LaTeX
    | \{\{?[A-Za-z_][\w.]*\}?\}             # {name}, {{name}}
    | %\([A-Za-z_]\w*\)[sd] | %[sd]
    | (?m:^[ \t]*(?:\(?[A-Za-z]\)|[A-Z][.:])(?=\s))   # option letters
    | (?m:^[ \t]*(?:[-*+\u2022]|\d+[.)])(?=\s))       # list bullets
    | \n+
    """,
    re.VERBOSE | re.DOTALL,
)
_SENTENCE = re.compile(r"(?<=[.!?\u2026])\s+(?=[^\W\d_\u00e0-\u00ff]|[\"'\u00bf\u00a1(])")
_LETTER_PATTERN = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f ]\d+)*")


def split(text: str) -> list[tuple[str, bool]]:
    """Split a text into (piece, whether to translate it); the pieces join to the text."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for found in _UNTOUCHED.finditer(text):
        pieces += _sentences(text[at : found.start()])
        pieces.append((found.group(), False))
        at = found.end()
    return pieces + _sentences(text[at:])


def _sentences(text: str) -> list[tuple[str, bool]]:
    """Split a text into sentences and the whitespace between them."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    ends = [(gap.start(), gap.end()) for gap in _SENTENCE.finditer(text)]
    for start, end in [*ends, (len(text), len(text))]:
        pieces += _split_whitespace(text[at:start])
        if end > start:
            pieces.append((text[start:end], False))
        at = end
    return pieces


def _split_whitespace(text: str) -> list[tuple[str, bool]]:
    inner = text.strip()
    if not inner:
        return [(text, False)] if text else []
    before, _, after = text.partition(inner)
    is_language = bool(_LETTER_PATTERN.search(inner))
    return [
        (t, wanted) for t, wanted in ((before, False), (inner, is_language), (after, False)) if t
    ]


def has_language(text: str) -> bool:
    """Return whether a text has anything to translate."""
    return any(wanted for _, wanted in split(text))


def untouchables(text: str) -> Counter[str]:
    """Count the parts that a translation must repeat, except line breaks."""
    return Counter(
        found.group().strip() for found in _UNTOUCHED.finditer(text) if found.group().strip()
    )


def numbers(text: str) -> Counter[str]:
    """Count the numbers by their digits, so that 1,000.5, 1.000,5 and 1000.5 are equal."""
    found = _NUMBER.finditer(text.translate(ASCII_NUMBERS))
    return Counter(re.sub(r"\D", "", number.group()) for number in found)
