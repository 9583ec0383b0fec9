"""HTML as a tree that keeps the source of its tags, so that only texts change."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser

_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr")
)
VERBATIM = frozenset(("script", "style"))
"""Elements whose content is no HTML."""


@dataclass(slots=True)
class Text:
    """A text, or a comment or declaration with its markup."""

    content: str
    is_markup: bool = False


@dataclass(slots=True)
class Element:
    """An element with the source of its start tag and end tag."""

    tag: str
    start: str
    attributes: dict[str, str]
    end: str = ""
    children: "list[Element | Text]" = field(default_factory=list)

    def elements(self) -> "Iterator[Element]":
        """Yield the elements inside, at any depth."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.elements()

    def text(self) -> str:
        """Return the text of the element, as `textContent` in a browser."""
        parts = (
            child.text() if isinstance(child, Element) else "" if child.is_markup else child.content
            for child in self.children
        )
        return "".join(parts)


def parse_html(html: str) -> Element:
    """Return the tree of a page, below an element without tags."""
    parser = _TreeBuilder()
    parser.feed(html)
    parser.close()
    return parser.root


def write_html(node: Element | Text) -> str:
    """Return the HTML of a node."""
    if isinstance(node, Text):
        return node.content if node.is_markup else escape(node.content, quote=False)
    if node.tag in VERBATIM:
        return f"{node.start}{node.text()}{node.end}"
    return f"{node.start}{''.join(map(write_html, node.children))}{node.end}"


class _TreeBuilder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element(tag="", start="", attributes={})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element, or add one that has no content."""
        element = self._add_element(tag, attrs)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element without content, such as a path of a drawing."""
        self._add_element(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element of this name, and those inside that have no end tag."""
        depth = max((n for n, one in enumerate(self._open) if one.tag == tag), default=0)
        if depth:
            name = self._open[depth].start[1 : 1 + len(tag)]  # names in drawings have capitals
            self._open[depth].end = f"</{name}>"
            del self._open[depth:]

    def handle_data(self, data: str) -> None:
        """Add a text."""
        self._open[-1].children.append(Text(data))

    def handle_comment(self, data: str) -> None:
        """Add a comment."""
        self._open[-1].children.append(Text(f"<!--{data}-->", is_markup=True))

    def handle_decl(self, decl: str) -> None:
        """Add a declaration, such as the type of the document."""
        self._open[-1].children.append(Text(f"<!{decl}>", is_markup=True))

    def _add_element(self, tag: str, attrs: list[tuple[str, str | None]]) -> Element:
        attributes = {name: value or "" for name, value in attrs}
        element = Element(tag=tag, start=self.get_starttag_text() or "", attributes=attributes)
        self._open[-1].children.append(element)
        return element
