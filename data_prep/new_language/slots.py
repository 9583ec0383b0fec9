"""Empty places of the files of a language: found, asked for and filled in."""

import dataclasses
import re
import string

from data_prep.new_language.template import quote

_LINE = re.compile(
    r'^(?P<head>[^#]*?|#   "[^"]*": ?)'
    r'(?P<value>""|\[[^\]]*""[^\]]*\]|\{[^}]*""[^}]*\})  # (?P<english>.+)$'
)
_LIST = re.compile(r"^(?P<head>[a-z_]+: )\[\]  # optional list, with commas: (?P<english>.+)$")
_NAMES, _UNUSED_NAMES = "names:", "# names:"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """An empty place on a line of a file."""

    line: int
    """Line number, from 1."""
    part: int
    """Number of the place among those of its line that were empty, from 0."""
    english: str
    """What belongs here, in English."""
    is_list: bool = False
    """Whether words separated by commas are expected, and none is an answer."""
    is_optional: bool = False
    """Whether the file is complete without it."""

    def refuse(self, text: str) -> str:
        """Return why a text can't stand here, or ""."""
        if not text.strip():
            return "the text is empty"
        expected, found = _placeholders(self.english), _placeholders(text)
        if self.is_list or expected == found:
            return ""
        names = " ".join(f"{{{name}}}" for name in sorted(expected)) or "no placeholder"
        return f"the text must contain {names}, as the English does"


def find_slots(text: str) -> list[Slot]:
    """Return the empty places of a file in their order."""
    slots = []
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _LIST.match(line):
            slots.append(
                Slot(line=number, part=0, english=match["english"], is_list=True, is_optional=True)
            )
        elif match := _LINE.match(line):
            texts = match["english"].split(" | ")
            blanks = [part for part, value in enumerate(_values(match["value"])) if not value]
            slots += [
                Slot(
                    line=number,
                    part=order,
                    english=texts[part] if part < len(texts) else match["english"],
                    is_optional=line.startswith("#"),
                )
                for order, part in enumerate(blanks)
            ]
    return slots


def fill(text: str, slot: Slot, answer: str) -> str:
    r"""Return the text of a file in which a place is filled in.

    Args:
        text: Content of the file.
        slot: The place, as `find_slots` of this text returned it.
        answer: What is written there; line breaks are written as in the English (`\n`).
    """
    lines = text.splitlines()
    line = lines[slot.line - 1]
    if slot.is_list:
        words = ", ".join(quote(word.strip()) for word in answer.split(",") if word.strip())
        lines[slot.line - 1] = line.replace("[]", f"[{words}]", 1)
    else:
        value = quote(answer.strip().replace("\\n", "\n"))
        starts = [m.start() for m in re.finditer(r'(?<!\\)""', line.partition("  # ")[0])]
        start = starts[slot.part]
        line = f"{line[:start]}{value}{line[start + 2 :]}"
        lines[slot.line - 1] = line.removeprefix("# ") if slot.is_optional else line
    filled = "\n".join(lines) + "\n"
    if slot.is_optional and not slot.is_list:
        filled = filled.replace(f"\n{_UNUSED_NAMES}\n", f"\n{_NAMES}\n")
    return filled


def _values(value: str) -> list[str]:
    """Return the texts of a list or mapping without its keys."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(:?)', value)
    return [text for text, colon in found if not colon]


def _placeholders(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError:
        return {"?"}
