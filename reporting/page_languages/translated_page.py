"""A finished English page in another language: its texts are looked up in a strings file.

Texts without an entry stay in English, marked as such, and are counted. Data, such as names of
cells, questions and replies, stay as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from markupsafe import Markup

from core.io.files import atomic_write_text
from core.process.log import get_logger
from reporting.page_languages.html_tree import Element, Text, parse_html, write_html
from reporting.page_languages.page_strings import (
    TEMPLATE_LANGUAGE,
    PageStrings,
    has_words,
    load_page_strings,
    mask_numbers,
)

_SKIPPED = frozenset(("script", "style", "code", "pre", "bdi"))
"""Elements whose content is code or data."""
_INLINE = frozenset(
    ("a", "abbr", "b", "bdi", "code", "em", "i", "small", "span", "strong", "sub", "sup", "u")
)
_ATTRIBUTES = ("title", "aria-label", "alt", "placeholder")
_NAME = "data-name"
_SENTENCE_END = re.compile(r"(?<=[.!?])((?:</\d+>)*) (?=(?:<\d+/?>)*['\"(]?[A-Z])")
_STAND_IN = re.compile(r"<(/?)(\d+)(/?)>")
_ENDS = r"<(?P<{0}>\d+)>(?:(?!</(?P={0})>).)*</(?P={0})>|<\d+/>"
_WHOLE = re.compile(r"(<(\d+)>)(.*)(</\2>)")
_LEADING = re.compile(rf"(?P<first>{_ENDS.format('n')})(?P<space> ?)(?P<second>.+)")
_TRAILING = re.compile(rf"(?P<first>.+?)(?P<space> ?)(?P<second>{_ENDS.format('n')})")
_ENGLISH_START, _ENGLISH_END = "\x02", "\x03"
"""Around texts that stay in English."""
_TEXT_ONLY = frozenset(("title", "option", "text"))
"""Elements that can't have others inside."""
_LOG = get_logger("report")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageMarks:
    """Attributes by which a template tells a translation what is data; empty for English pages."""

    data: str
    """For elements whose content is data."""
    name: str
    """For elements whose content is a name, which is translated only if it has an entry."""


def page_marks(page_language: str) -> PageMarks:
    """Return the marks of a page that is going to be in a language."""
    if page_language == TEMPLATE_LANGUAGE:
        return PageMarks(data="", name="")
    return PageMarks(data=Markup(' translate="no"'), name=Markup(f" {_NAME}"))


@dataclass(slots=True)
class TranslatedPage:
    """A page in another language, and what of it is still in English."""

    html: str = ""
    texts: set[str] = field(default_factory=set)
    """Texts with words. Those that differ in numbers only are one text."""
    untranslated: dict[str, str] = field(default_factory=dict)
    """Those that are in English, with the first of the texts that differ in numbers only."""

    @property
    def num_translated(self) -> int:
        """Number of the translated texts."""
        return len(self.texts) - len(self.untranslated)


def write_page(path: Path, html: str, page_language: str) -> Path:
    """Write a page in a language and return its path.

    A page in another language than English is written next to `path`, with the code of the
    language in its name, and so is the list of the texts that have no translation.

    Args:
        path: Path of the English page.
        html: The English page, with the marks of the language.
        page_language: Code of the language.

    Raises:
        ConfigError: If the strings file of the language is missing or faulty.
    """
    if page_language == TEMPLATE_LANGUAGE:
        atomic_write_text(path, html)
        return path
    page = translate_page(html, load_page_strings(page_language))
    translated = path.with_suffix(f".{page_language}.html")
    listed = path.with_suffix(f".{page_language}.untranslated.txt")
    atomic_write_text(translated, page.html)
    counted = (
        f"page in {page_language}: {page.num_translated} of {len(page.texts)} texts translated"
    )
    if page.untranslated:
        atomic_write_text(listed, "".join(f"{text}\n" for text in page.untranslated.values()))
        _LOG.warning("%s; the others are in English: %s", counted, listed)
    else:
        listed.unlink(missing_ok=True)
        _LOG.info("%s", counted)
    return translated


def translate_page(html: str, strings: PageStrings) -> TranslatedPage:
    """Return an English page in another language."""
    page = TranslatedPage()
    tree = parse_html(html)
    for element in tree.elements():
        if element.tag == "html":
            _set_attribute(element, "lang", strings.code)
    _Translation(strings, page).visit(tree)
    page.html = write_html(tree)
    return page


class _Translation:
    """Translates the texts of a tree in place."""

    def __init__(self, strings: PageStrings, page: TranslatedPage) -> None:
        self._strings, self._page = strings, page

    def visit(self, element: Element, *, is_name: bool = False) -> None:
        """Translate the attributes and the content of an element."""
        if _is_kept(element):
            return
        if _NAME in element.attributes:
            is_name = True
            element.start = element.start.replace(f" {_NAME}", "", 1)
        # A single word of a drawing is a value of an axis or its name.
        is_name = is_name or (element.tag == "text" and " " not in element.text().strip())
        self._translate_attributes(element)
        before = element.text() if element.tag in ("td", "th") else ""
        runs = _split_runs(element.children)
        is_only = sum(any(write_html(node).strip() for node in run) for run in runs) == 1
        children: list[Element | Text] = []
        for run in runs:
            texts = [node.content for node in run if isinstance(node, Text) and not node.is_markup]
            if any(map(has_words, texts)):
                english = element if is_only or element.tag in _TEXT_ONLY else None
                children += self._translate_run(run, english, is_name=is_name)
            else:
                children += self._visit_apart(run, is_name=is_name)
        element.children = children
        is_changed = before != "" and before != element.text()
        if is_changed and re.search(r"\d", before) and "data-value" not in element.attributes:
            _set_attribute(element, "data-value", before)  # the number by which the page sorts

    def _visit_apart(
        self, run: Sequence[Element | Text], *, is_name: bool
    ) -> Sequence[Element | Text]:
        """Translate elements between which there are no words."""
        for node in run:
            if isinstance(node, Element):
                self.visit(node, is_name=is_name)
            elif not node.is_markup:
                node.content = self._strings.content.numbers.write(node.content)
        return run

    def _translate_run(
        self, run: Sequence[Element | Text], whole: Element | None, *, is_name: bool
    ) -> list[Element | Text]:
        """Translate a text with the elements inside.

        Args:
            run: The text.
            whole: The element whose only content it is; None if there is more.
            is_name: Whether a text without an entry is a name.
        """
        inside: dict[str, Element] = {}
        key = re.sub(r"[ \t\n]+", " ", "".join(self._stand_ins(node, inside) for node in run))
        text = key.strip(" ")
        start = key[: len(key) - len(key.lstrip(" "))]
        end = key[len(key.rstrip(" ")) :]
        if is_name:
            translation = self._look_up(text)
            done = text if translation is None else translation
        else:
            done = self._translate_sentences(text)
        if whole is not None and done == f"{_ENGLISH_START}{text}{_ENGLISH_END}":
            _set_attribute(whole, "lang", TEMPLATE_LANGUAGE)
            done = text
        elif whole is not None and whole.tag in _TEXT_ONLY and _ENGLISH_START in done:
            _set_attribute(whole, "lang", TEMPLATE_LANGUAGE)
            done = done.replace(_ENGLISH_START, "").replace(_ENGLISH_END, "")
        return _to_nodes(f"{start}{done}{end}", inside)

    def _stand_ins(self, node: Element | Text, inside: dict[str, Element]) -> str:
        """Return the text of a node with stand-ins for elements, which are added to `inside`."""
        if isinstance(node, Text):
            return node.content
        number = str(len(inside) + 1)
        inside[number] = node
        if _is_kept(node):
            return f"<{number}/>"
        self._translate_attributes(node)
        content = "".join(self._stand_ins(child, inside) for child in node.children)
        return f"<{number}>{content}</{number}>"

    def _translate_sentences(self, text: str) -> str:
        """Translate a text as a whole, or else its sentences; mark those in English."""
        sentences = _split_sentences(text)
        if len(sentences) > 1 and (found := self._look_up(text)) is not None:
            self._count(text, is_translated=True)
            return found
        return " ".join(map(self._translate_sentence, sentences))

    def _translate_sentence(self, text: str) -> str:
        """Translate a sentence, or else the elements at its ends apart from the rest."""
        found = self._look_up(text)
        if found is None:
            if parts := _WHOLE.fullmatch(text):
                return f"{parts[1]}{self._translate_part(parts[3])}{parts[4]}"
            if parts := _LEADING.fullmatch(text) or _TRAILING.fullmatch(text):
                first, space, second = parts["first"], parts["space"], parts["second"]
                return f"{self._translate_part(first)}{space}{self._translate_part(second)}"
        self._count(text, is_translated=found is not None)
        return f"{_ENGLISH_START}{text}{_ENGLISH_END}" if found is None else found

    def _translate_part(self, text: str) -> str:
        return self._translate_sentence(text) if has_words(text) else self._format(text)

    def _format(self, text: str) -> str:
        return self._strings.content.numbers.write(text)

    def _look_up(self, text: str) -> str | None:
        """Return the translation of a text in which elements are numbered from 1."""
        numbers = list(dict.fromkeys(found[2] for found in _STAND_IN.finditer(text)))
        local = {number: str(at + 1) for at, number in enumerate(numbers)}
        translation = self._strings.translate(_renumber(text, local))
        if translation is None:
            return None
        return _renumber(translation, {new: old for old, new in local.items()})

    def _count(self, text: str, *, is_translated: bool) -> None:
        masked = mask_numbers(text)
        self._page.texts.add(masked)
        if not is_translated:
            self._page.untranslated.setdefault(masked, " ".join(text.split()))

    def _translate_attributes(self, element: Element) -> None:
        for name in _ATTRIBUTES:
            value = element.attributes.get(name, "")
            if has_words(value):
                done = self._translate_sentences(value)
                done = done.replace(_ENGLISH_START, "").replace(_ENGLISH_END, "")
                if done != value:
                    _set_attribute(element, name, done)


def _is_kept(element: Element) -> bool:
    """Return whether the content of an element is code, data or in a language of its own."""
    attributes = element.attributes
    is_foreign = "lang" in attributes and element.tag != "html"
    return element.tag in _SKIPPED or is_foreign or attributes.get("translate") == "no"


def _is_inline(node: Element | Text) -> bool:
    if isinstance(node, Text):
        return not node.is_markup
    return node.tag in _INLINE and all(one.tag in _INLINE for one in node.elements())


def _split_runs(nodes: Sequence[Element | Text]) -> list[list[Element | Text]]:
    """Split nodes into texts with the elements inside, and single other nodes."""
    runs: list[list[Element | Text]] = []
    is_open = False
    for node in nodes:
        if _is_inline(node) and is_open:
            runs[-1].append(node)
        else:
            runs.append([node])
        is_open = _is_inline(node)
    return runs


def _split_sentences(text: str) -> list[str]:
    """Split a text after the ends of sentences that are not inside an element."""
    sentences, start = list[str](), 0
    for found in _SENTENCE_END.finditer(text):
        tags = [one for one in _STAND_IN.finditer(text[start : found.end(1)]) if not one[3]]
        if sum(-1 if one[1] else 1 for one in tags) == 0:
            sentences.append(text[start : found.end(1)])
            start = found.end()
    return [*sentences, text[start:]]


def _renumber(text: str, numbers: Mapping[str, str]) -> str:
    return _STAND_IN.sub(lambda found: f"<{found[1]}{numbers[found[2]]}{found[3]}>", text)


def _to_nodes(text: str, inside: Mapping[str, Element]) -> list[Element | Text]:
    """Put elements in place of their stand-ins, and mark English texts."""
    root = Element(tag="", start="", attributes={})
    is_open = [root]
    for part in re.split(rf"(</?\d+/?>|{_ENGLISH_START}|{_ENGLISH_END})", text):
        found = _STAND_IN.fullmatch(part)
        if part == _ENGLISH_END or (found and found[1]):
            is_open.pop()
        elif part == _ENGLISH_START or found:
            element = (
                inside[found[2]]
                if found
                else Element(tag="span", start='<span lang="en">', attributes={}, end="</span>")
            )
            is_open[-1].children.append(element)
            if not (found and found[3]):
                element.children = []
                is_open.append(element)
        elif part:
            is_open[-1].children.append(Text(part))
    return root.children


def _set_attribute(element: Element, name: str, value: str) -> None:
    """Set an attribute in the source of a start tag."""
    written = f' {name}="{escape(value)}"'
    old = re.compile(rf'\s{re.escape(name)}="[^"]*"')
    if old.search(element.start):
        element.start = old.sub(lambda _: written, element.start, count=1)
    else:
        close = len(element.start) - (2 if element.start.endswith("/>") else 1)
        element.start = f"{element.start[:close]}{written}{element.start[close:]}"
    element.attributes[name] = value
