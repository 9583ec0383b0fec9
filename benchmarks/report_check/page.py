"""Reading of report.html: its paragraphs, lists and tables by section."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_BREAKS = {"br", "p", "li", "div", "tr"}
_SKIPPED = {"script", "style", "svg"}
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


@dataclass
class Cell:
    """One cell of a table."""

    style: str
    title: str
    text: str = ""

    def numbers(self) -> list[float]:
        """Return the numbers of the text."""
        return numbers(self.text)


@dataclass
class Table:
    """One table: header and rows, and the heading above it."""

    heading: str
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def header(self) -> list[str]:
        """Return the texts of the first row."""
        return [" ".join(cell.text.split()) for cell in self.rows[0]]


@dataclass
class Section:
    """Content of one section of the page."""

    texts: list[str] = field(default_factory=list)
    """Paragraphs, headings and items of lists."""
    tables: list[Table] = field(default_factory=list)

    def find(self, words: str) -> Table | None:
        """Return the first table below a heading that contains some words."""
        return next((table for table in self.tables if words in table.heading), None)


def numbers(text: str) -> list[float]:
    """Return the numbers of a text; a minus sign counts only without a digit before it."""
    found = re.findall(r"(?<![\d%])[-+]?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?", text)
    return [float(number.replace(",", "")) for number in found]


def read_page(html: str) -> dict[str, Section]:
    """Return the sections of a page by their id; the header has the id `head`."""
    reader = _Reader()
    reader.feed(html)
    return reader.sections


def _clean(text: str) -> str:
    for old, new in (("\N{NO-BREAK SPACE}", " "), ("\N{MINUS SIGN}", "-"), ("\N{EN DASH}", " ")):
        text = text.replace(old, new)
    return text


class _Reader(HTMLParser):
    """Collect texts and tables."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: dict[str, Section] = {"head": Section()}
        self._section = self.sections["head"]
        self._heading, self._skip = "", 0
        self._table: Table | None = None
        self._cell: Cell | None = None
        self._text: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag in _SKIPPED:
            self._skip += 1
        elif tag == "section":
            self._section = self.sections.setdefault(known.get("id", ""), Section())
            self._heading = ""
        elif tag == "table":
            self._table = Table(heading=self._heading)
            self._section.tables.append(self._table)
        elif tag == "tr" and self._table is not None:
            self._table.rows.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._cell = Cell(style=known.get("class", ""), title=_clean(known.get("title", "")))
            self._table.rows[-1].append(self._cell)
        elif tag in ("p", "h1", "h2", "h3", "li") and self._cell is None:
            self._text = ""
        elif tag in _BREAKS and self._cell is not None:
            self._cell.text += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skip -= 1
        elif tag in ("td", "th"):
            self._cell = None
        elif tag == "table":
            self._table = None
        elif tag in ("p", "h1", "h2", "h3", "li") and self._text is not None:
            self._section.texts.append(" ".join(self._text.split()))
            if tag in ("h2", "h3"):
                self._heading = self._section.texts[-1]
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        if self._cell is not None:
            self._cell.text += _clean(data)
        elif self._text is not None:
            self._text += _clean(data)
