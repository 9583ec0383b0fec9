"""What in a text is language and what must come through untouched."""

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
    | (?m:^[ \t]*(?:\(?[A-Za-z]\)|[A-Z][.:])(?=\s))   # the letter of an option
    | (?m:^[ \t]*(?:[-*+\u2022]|\d+[.)])(?=\s))       # a list's bullet
    | \n+
    """,
    re.VERBOSE | re.DOTALL,
)
_SENTENCE = re.compile(r"(?<=[.!?\u2026])\s+(?=[^\W\d_\u00e0-\u00ff]|[\"'\u00bf\u00a1(])")
_LETTER = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f ]\d+)*")


def split(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, and whether each is to be translated; joined they are the text."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for found in _UNTOUCHED.finditer(text):
        pieces += _sentences(text[at : found.start()])
        pieces.append((found.group(), False))
        at = found.end()
    return pieces + _sentences(text[at:])


def _sentences(text: str) -> list[tuple[str, bool]]:
    """Sentences, with the space around them kept apart."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    ends = [(gap.start(), gap.end()) for gap in _SENTENCE.finditer(text)]
    for start, end in [*ends, (len(text), len(text))]:
        pieces += _stripped(text[at:start])
        if end > start:
            pieces.append((text[start:end], False))
        at = end
    return pieces


def _stripped(text: str) -> list[tuple[str, bool]]:
    inner = text.strip()
    if not inner:
        return [(text, False)] if text else []
    before, _, after = text.partition(inner)
    is_language = bool(_LETTER.search(inner))
    return [
        (t, wanted) for t, wanted in ((before, False), (inner, is_language), (after, False)) if t
    ]


def has_language(text: str) -> bool:
    """Whether there is anything to translate."""
    return any(wanted for _, wanted in split(text))


def untouchables(text: str) -> Counter[str]:
    """Everything that a translation must repeat, but for the space between lines."""
    return Counter(
        found.group().strip() for found in _UNTOUCHED.finditer(text) if found.group().strip()
    )


def numbers(text: str) -> Counter[str]:
    """The digits of every number, in any script and grouping: 1,000.5, 1.000,5, 1000.5 are one."""
    found = _NUMBER.finditer(text.translate(ASCII_NUMBERS))
    return Counter(re.sub(r"\D", "", number.group()) for number in found)
