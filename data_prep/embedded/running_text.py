"""Parallel running text in several languages: the paragraphs of LibreOffice's help pages.

The pages are translations with the same paragraphs in the same order, so they align exactly. Their
domain is limited to software manuals.
"""

import dataclasses
import html
import re
from collections.abc import Iterator

from core.errors import DataError
from data_prep.embedded.packages import PackageFolder, text_digest
from data_prep.embedded.wordings import Language

LICENCE = "MPL-2.0"
EXPECTED_PAIRS = 38_341
"""Distinct English-Basque pairs of LibreOffice 7.4; later revisions differ slightly."""
TOLERANCE = 0.03

_PARAGRAPH = re.compile(r"<(p|h[1-6])\b[^>]*>(.*?)</\1>", re.DOTALL)
_CONTENT_START = 'id="DisplayArea"'
_SOFT_HYPHEN = "\u00ad"
_HTML_TAG = re.compile(r"<[^>]+>")
_CODE = re.compile(r"[{}<>=\\|_~^#%]|https?:|\w\.\w|\(\)|[A-Z]{4}|\d{3}")
_MIN_CHARS, _MAX_CHARS = 60, 300
_MAX_LENGTH_RATIO = 2.0
_MAX_DOCUMENT_CHARS = 600


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParallelText:
    """A text in every language, in the order of the languages."""

    page: str
    texts: tuple[str, ...]


def read_pages(
    packages: PackageFolder, languages: tuple[Language, ...]
) -> dict[str, list[tuple[str, ...]]]:
    """Return the distinct paragraphs of every page that aligns, each in every language.

    Raises:
        DataError: If a language has no help pages, or the number of pairs is unexpected.
    """
    pages = [_read_paragraphs(packages, language) for language in languages]
    seen: set[tuple[str, ...]] = set()
    found: dict[str, list[tuple[str, ...]]] = {}
    for page in sorted(set.intersection(*(set(each) for each in pages))):
        versions = [each[page] for each in pages]
        if len({len(version) for version in versions}) != 1:
            continue
        paragraphs = []
        for texts in zip(*versions, strict=True):
            if _is_translated(texts) and texts not in seen:
                seen.add(texts)
                paragraphs.append(texts)
        if paragraphs:
            found[page] = paragraphs
    if {language.code for language in languages} == {"en", "eu"}:
        _check_pairs(len(seen))
    return found


def choose_paragraphs(pages: dict[str, list[tuple[str, ...]]], count: int) -> list[ParallelText]:
    """Choose paragraphs of ordinary prose, independently of the other paragraphs."""
    clean = [
        ParallelText(page=page, texts=texts)
        for page, paragraphs in pages.items()
        for texts in paragraphs
        if _is_prose(texts)
    ]
    # Ranked by a hash of the text, so that a later revision only affects paragraphs it changed.
    return sorted(clean, key=lambda text: text_digest(text.texts[0]))[:count]


def documents(pages: dict[str, list[tuple[str, ...]]]) -> Iterator[ParallelText]:
    """Yield all paragraphs, joined per page to documents of about 600 characters."""
    for page, paragraphs in pages.items():
        block: list[tuple[str, ...]] = []
        for texts in paragraphs:
            longest = max(len("\n".join(column)) for column in zip(*block, texts, strict=True))
            if block and longest > _MAX_DOCUMENT_CHARS:
                yield _join_paragraphs(page, block)
                block = []
            block.append(texts)
        if block:
            yield _join_paragraphs(page, block)


def _join_paragraphs(page: str, block: list[tuple[str, ...]]) -> ParallelText:
    return ParallelText(page=page, texts=tuple("\n".join(c) for c in zip(*block, strict=True)))


def read_help_pages(packages: PackageFolder, package: str, folder: str) -> dict[str, list[str]]:
    """Return the paragraphs of every page of a help package; `folder` is that of its language.

    Raises:
        DataError: If the package has no pages in the folder.
    """
    prefix = f"usr/share/libreoffice/help/{folder}/text/"
    files = packages.debian_files(package, prefix, ".html")
    pages = {path: _clean_paragraphs(content.decode("utf-8")) for path, content in files}
    if not pages:
        raise DataError(
            f"package {package} has no pages under {prefix}; correct `help` in the data.yaml of "
            "its language"
        )
    return pages


def _read_paragraphs(packages: PackageFolder, language: Language) -> dict[str, list[str]]:
    if language.help_package is None:
        raise DataError(
            f"language '{language.code}' has no help pages (help: null in its data.yaml); set "
            "`help` to the name of their package"
        )
    return read_help_pages(packages, language.help_package, language.help_folder)


def _clean_paragraphs(page: str) -> list[str]:
    start = page.find(_CONTENT_START)
    return [_strip_markup(match[2]) for match in _PARAGRAPH.finditer(page, max(start, 0))]


def _strip_markup(markup: str) -> str:
    text = html.unescape(_HTML_TAG.sub("", markup)).replace(_SOFT_HYPHEN, "")
    return " ".join(text.split())


def _is_translated(texts: tuple[str, ...]) -> bool:
    return all(texts) and len(set(texts)) == len(texts)


def _is_prose(texts: tuple[str, ...]) -> bool:
    lengths = [len(text) for text in texts]
    return (
        min(lengths) >= _MIN_CHARS
        and max(lengths) <= _MAX_CHARS
        and max(lengths) <= _MAX_LENGTH_RATIO * min(lengths)
        and all(text.endswith(".") and text[0].isupper() for text in texts)
        and not any(_CODE.search(text) for text in texts)
    )


def _check_pairs(count: int) -> None:
    if abs(count - EXPECTED_PAIRS) > TOLERANCE * EXPECTED_PAIRS:
        raise DataError(
            f"the help pages gave {count} distinct pairs, expected {EXPECTED_PAIRS} "
            f"+- {TOLERANCE:.0%}; use libreoffice-help-* 7.4 (Debian 12)"
        )
