"""Strings files: the texts of pages in another language, as exact texts and as templates.

A strings file `CODE.yaml` maps English texts to their translations. `{name}` in a text stands for
anything, which the translation repeats; `{name:KIND}` restricts it and says how it is written:

* `number` and `percent`: in the number format of the language.
* `name`: a word without spaces, which is not translated.
* `letter`: one capital letter.
* `text`: a text with a translation of its own, or a list of them; it may be empty.
* `label`: a text with a translation of its own, or a word that stays as it is.

`<1>...</1>` stands for an element inside the text, such as emphasis or a link, and `<1/>` for one
whose content is not translated, such as code. A list of texts, separated by "; " or ", ", needs no
entry of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError, unknown_name
from core.yaml_text import read_yaml

TEMPLATE_LANGUAGE = "en"
"""Language in which pages are written; it has no strings file."""
_FOLDER = Path(__file__).parent
_SIGNS = "-+\N{MINUS SIGN}\N{PLUS-MINUS SIGN}"
_NUMBER = rf"[{_SIGNS}]?\d+(?:,\d{{3}})*(?:\.\d+)?(?:e[+-]?\d+)?"
_RANGE = rf"{_NUMBER}(?:\N{{EN DASH}}{_NUMBER})?"
_KINDS = {
    "": r".+?",
    "number": _RANGE,
    "percent": rf"{_RANGE} ?%",
    "name": r"[^\s<>]+?",
    "text": r".*?",
    "label": r"[^;:<>]{1,80}?",
    "letter": r"[A-Z]",
}
"""Kind of a placeholder -> pattern of its values."""
_PLACEHOLDER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_ELEMENT = re.compile(r"</?\d+/?>")
_IN_TEXT = re.compile(rf"(?<![\w.]){_RANGE}(?:[ \N{{NO-BREAK SPACE}}]?%)?(?!\.?\w)")
_CODE = re.compile(r"[^\s<>]*\w[._]\w[^\s<>]*")
"""A name in code or of a file: one word with a dot or an underscore inside."""
_LETTER = re.compile(r"[^\W\d_]")
_SEPARATORS = ("; ", ", ")


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """Number format of a language."""

    decimal: str
    """Decimal separator."""
    group: str
    """Separator of groups of three digits."""
    percent: str
    """A percentage, with `{n}` in place of its number."""
    between: str
    """Separator of the numbers of a list, which must differ from the decimal separator."""

    def write(self, text: str) -> str:
        """Return a text with its numbers and percentages in this format."""
        listed = re.sub(rf"(?<=\d), (?=[{_SIGNS}]?\d)", lambda _: self.between, text)
        return _IN_TEXT.sub(lambda found: self._write_one(found[0]), listed)

    def _write_one(self, number: str) -> str:
        groups = number.rstrip("%").rstrip().split(",")
        written = self.group.join(part.replace(".", self.decimal) for part in groups)
        return self.percent.format(n=written) if number.endswith("%") else written


@dataclass(frozen=True, kw_only=True)
class StringsFile:
    """Content of a strings file."""

    name: str
    """Name of the language in the language."""
    numbers: NumberFormat
    texts: dict[str, str]
    """English text or template -> translation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Template:
    pattern: re.Pattern[str]
    kinds: Mapping[str, str]
    translation: str


class PageStrings:
    """The texts of pages in one language."""

    def __init__(self, code: str, content: StringsFile, *, where: str = "") -> None:
        """Compile the templates.

        Args:
            code: Code of the language.
            content: The strings.
            where: Name of the file in error messages.

        Raises:
            ConfigError: If a translation lacks a placeholder or an element of its text, or has
                others, or a placeholder has an unknown kind.
        """
        self.code = code
        self.content = content
        self._texts: dict[str, str] = {}
        self._known: dict[tuple[str, Sequence[str]], str | None] = {}
        templates = []
        for text, translation in content.texts.items():
            _check_entry(text, translation, where or code)
            if _PLACEHOLDER.search(text):
                templates.append(_compile(text, translation))
            else:
                self._texts[_plain(text)] = translation
        # The more of a text is literal, the more specific it is.
        self._templates = sorted(templates, key=lambda pair: -pair[0])

    def translate(self, text: str) -> str | None:
        """Return the translation of a text; None if it has none.

        Numbers without words are always translated, by their format.
        """
        return self._look_up(text, _SEPARATORS)

    def _look_up(self, text: str, separators: Sequence[str]) -> str | None:
        plain = _plain(text)
        key = (plain, separators)
        if key not in self._known:
            self._known[key] = self._find(plain, separators)
        return self._known[key]

    def _find(self, text: str, separators: Sequence[str]) -> str | None:
        if text in self._texts:
            return self._texts[text]
        if not has_words(text):
            return text if _is_code(text) else self.content.numbers.write(text)
        for _, template in self._templates:
            found = template.pattern.fullmatch(text)
            if found and (filled := self._fill(template, found)) is not None:
                return filled
        for number, separator in enumerate(separators):
            if separator in text:
                parts = self._join(text.split(separator), separators[number:])
                if parts is not None:
                    return parts
        return None

    def _fill(self, template: _Template, found: re.Match[str]) -> str | None:
        values = dict[str, str]()
        for name, kind in template.kinds.items():
            value = self._value(found[name], kind)
            if value is None:
                return None
            values[name] = value
        return _PLACEHOLDER.sub(lambda place: values[place[1]], template.translation)

    def _value(self, text: str, kind: str) -> str | None:
        if kind in ("number", "percent"):
            return self.content.numbers.write(text)
        if kind not in ("text", "label") or not text.strip():
            return text
        translation = self.translate(text)
        if translation is None:
            return text if kind == "label" and len(text.split()) == 1 else None
        start, end = (len(text) - len(text.lstrip()), len(text.rstrip()))
        return f"{text[:start]}{translation}{text[end:]}"

    def _join(self, parts: Sequence[str], separators: Sequence[str]) -> str | None:
        """Translate the parts of a list, as many together as one entry covers."""
        done, at = list[str](), 0
        while at < len(parts):
            for end in range(len(parts), at, -1):
                if end - at == len(parts):
                    continue  # the whole list, which has no entry
                rest = separators[1:] if end - at == 1 else ()
                found = self._look_up(separators[0].join(parts[at:end]), rest)
                if found is not None:
                    break
            else:
                return None
            done.append(found)
            at = end
        return separators[0].join(done)


def known_page_languages() -> list[str]:
    """Return the codes of the languages of pages."""
    return sorted({TEMPLATE_LANGUAGE, *(path.stem for path in _FOLDER.glob("*.yaml"))})


def load_page_strings(code: str) -> PageStrings:
    """Read the strings file of a language.

    Raises:
        ConfigError: If there is no such file, or it is faulty.
    """
    check_page_language(code)
    return read_strings_file(_FOLDER / f"{code}.yaml")


def check_page_language(code: str) -> None:
    """Check that pages exist in a language.

    Raises:
        ConfigError: If they do not; the message names those that exist.
    """
    known = known_page_languages()
    if code not in known:
        fix = "To add a language, translate reporting/page_languages/eu.yaml"
        raise ConfigError(unknown_name("page language", code, known, fix=fix))


def read_strings_file(path: Path) -> PageStrings:
    """Read a strings file, whose name is the code of the language.

    Raises:
        ConfigError: If it is faulty; the message names the file and the text.
    """
    raw = read_yaml(path, StringsFile)
    missing = {"name", "numbers", "texts"} - raw.keys()
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(sorted(missing))}")
    lacking = {"decimal", "group", "percent", "between"} - raw["numbers"].keys()
    if lacking:
        raise ConfigError(f"{path}: numbers lacks {', '.join(sorted(lacking))}")
    content = StringsFile(
        name=raw["name"], numbers=NumberFormat(**raw["numbers"]), texts=raw["texts"]
    )
    if "{n}" not in content.numbers.percent:
        raise ConfigError(f"{path}: numbers.percent is '{content.numbers.percent}', without {{n}}")
    return PageStrings(path.stem, content, where=str(path))


def has_words(text: str) -> bool:
    """Return whether a text has letters besides those of numbers, elements, and names in code."""
    if _is_code(text.strip()):
        return False
    return _LETTER.search(_IN_TEXT.sub("", _ELEMENT.sub("", text))) is not None


def mask_numbers(text: str) -> str:
    """Return a text with 0 in place of its numbers, to find texts that differ in numbers only."""
    return _IN_TEXT.sub("0", _plain(text))


def _is_code(text: str) -> bool:
    is_word = _CODE.fullmatch(text) and _LETTER.search(text)
    return is_word is not None and not _IN_TEXT.fullmatch(text)


def _plain(text: str) -> str:
    """Return a text with single spaces; a no-break space is a space."""
    return " ".join(text.split())


def _check_entry(text: str, translation: str, where: str) -> None:
    if not translation.strip():
        raise ConfigError(f"{where}: the translation of '{text}' is empty")
    for pattern, what in ((_PLACEHOLDER, "placeholder"), (_ELEMENT, "element")):
        wanted = [found[0] for found in pattern.finditer(text)]
        given = [found[0] for found in pattern.finditer(translation)]
        if pattern is _PLACEHOLDER:
            wanted = [f"{{{found[1]}}}" for found in pattern.finditer(text)]
        if repeated := sorted({one for one in wanted if wanted.count(one) > 1}):
            raise ConfigError(f"{where}: '{text}' repeats the {what} {repeated[0]}")
        if missing := [one for one in wanted if one not in given]:
            raise ConfigError(f"{where}: the translation of '{text}' lacks {', '.join(missing)}")
        if unknown := [one for one in given if one not in wanted or given.count(one) > 1]:
            raise ConfigError(
                f"{where}: the translation of '{text}' has {', '.join(dict.fromkeys(unknown))}, "
                "which the text does not have as often"
            )
    if not _is_nested(translation):
        raise ConfigError(f"{where}: the elements in the translation of '{text}' overlap")
    for found in _PLACEHOLDER.finditer(text):
        if (found[2] or "") not in _KINDS:
            message = unknown_name("kind of placeholder", found[2], filter(None, _KINDS))
            raise ConfigError(f"{where}: '{text}': {message}")


def _is_nested(text: str) -> bool:
    """Return whether every element of a text ends inside the one in which it begins."""
    is_open = list[str]()
    for found in re.finditer(r"<(/?)(\d+)>", text):
        if not found[1]:
            is_open.append(found[2])
        elif not is_open or is_open.pop() != found[2]:
            return False
    return not is_open


def _compile(text: str, translation: str) -> tuple[int, _Template]:
    """Return a template with the number of its literal characters."""
    pattern, kinds, at, literal = "", dict[str, str](), 0, 0
    plain = _plain(text)
    for found in _PLACEHOLDER.finditer(plain):
        kind = found[2] or ""
        pattern += f"{re.escape(plain[at : found.start()])}(?P<{found[1]}>{_KINDS[kind]})"
        literal += found.start() - at
        kinds[found[1]] = kind
        at = found.end()
    pattern += re.escape(plain[at:])
    literal += len(plain) - at
    return literal, _Template(pattern=re.compile(pattern), kinds=kinds, translation=translation)
