"""Cleaning of text at every boundary: training records, benchmarks, published datasets, tables.

The rule, documented in docs/reference/data-format.md: text is Unicode in form NFC, without byte
order marks, direction marks, soft hyphens and control characters. What can't be cleaned is an
error.
"""

import re
import unicodedata

from core.chat.characters import INVISIBLE
from core.errors import DataError

NOT_UNICODE = "text is not Unicode"
"""Fault of a text with an unpaired surrogate, as of an emoji that was cut in two."""

_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")
_KEPT_CONTROLS = frozenset("\t\n")
_CONTROLS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT_CONTROLS
}
_FILLERS = dict.fromkeys([0x180E, 0x3164, 0xFFA0, 0xFFFC, *range(0xFFF9, 0xFFFC), 0xFFFE, 0xFFFF])
"""Invisible fillers and annotation marks, the object replacement character, and noncharacters."""
_REMOVED = INVISIBLE | _CONTROLS | _FILLERS
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHANGED = re.compile(f"[\r\u2028\u2029\ud800-\udfff{re.escape(''.join(map(chr, _REMOVED)))}]")
"""Characters that cleaning removes, replaces or rejects."""


def clean_text(text: str) -> str:
    """Return a text in form NFC, without invisible marks and control characters.

    Line ends become a newline. The joiners of Indic and Arabic scripts are kept, because they
    change a word.

    Raises:
        DataError: If the text has a lone surrogate, which no UTF-8 file can hold.
    """
    is_plain = _CHANGED.search(text) is None
    if is_plain and unicodedata.is_normalized("NFC", text):
        return text
    if found := _SURROGATE.search(text):
        raise DataError(
            f"the text has an unpaired surrogate at character {found.start()} "
            f"({found[0]!a}); it was cut inside an emoji or is not UTF-8",
            NOT_UNICODE,
        )
    one_line_end = _LINE_ENDS.sub("\n", text)
    return unicodedata.normalize("NFC", one_line_end.translate(_REMOVED))
