"""Photographs of GCompris's activities of discovery, with a title and sentences about each.

An activity is a Qt resource with photographs and boards. A board is QML source with one object per
photograph, whose English texts the Qt catalogues translate. Which photograph is under which licence
is said in the file README beside it: 62 are in the public domain, the others are CC-BY(-SA).
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from core.errors import DataError
from core.text import clean_text
from data_prep.embedded.packages import PackageFolder
from data_prep.photographs.photograph import ENGLISH, Photograph, PhotoPackage
from data_prep.photographs.qt_catalogue import read_catalogue
from data_prep.photographs.qt_resources import read_resources

GCOMPRIS = PhotoPackage(key="gcompris", name="gcompris-qt-data", licence="GPL-3.0-or-later")

_FOLDER = "usr/share/gcompris-qt/"
_RESOURCES, _CATALOGUES = "rcc/", "translations/gcompris_"
_ACTIVITIES = {
    "explore_farm_animals": True,
    "explore_monuments": True,
    "explore_world_animals": True,
    "explore_world_music": False,
}
"""Activity -> whether its titles name what is shown (those about music name countries)."""
_BOARD = re.compile(r"/board/board\d+\.qml$")
_OBJECT = re.compile(r"\{[^{}]*\}")
_FIELD = re.compile(r'"(image2|title|text)"\s*:\s*(?:qsTr\(\s*)?"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t"}
_SCHEME = "qrc:"


def read_photographs(packages: PackageFolder, languages: Sequence[str]) -> list[Photograph]:
    """Return the photographs with texts in all languages.

    Raises:
        DataError: If the package can't be downloaded or read.
    """
    suffixes = tuple(
        [f"{_RESOURCES}{activity}.rcc" for activity in _ACTIVITIES]
        + [f"{_CATALOGUES}{language}.qm" for language in languages]
    )
    return parse_photographs(
        dict(packages.debian_files(GCOMPRIS.name, _FOLDER, suffixes)), languages
    )


def parse_photographs(files: Mapping[str, bytes], languages: Sequence[str]) -> list[Photograph]:
    """Return the photographs among the files of the package, by path.

    Args:
        files: Path below the package's folder -> content of the activities and catalogues.
        languages: Languages that the texts must have.

    Raises:
        DataError: If a file is damaged, or a board names a photograph that is not there.
    """
    translations = {
        language: _read_translations(files, language)
        for language in languages
        if language != ENGLISH
    }
    found = []
    for activity, has_titles in _ACTIVITIES.items():
        path = f"{_RESOURCES}{activity}.rcc"
        if path not in files:
            raise DataError(f"package {GCOMPRIS.name} has no {path}; expected version 3 or newer")
        resource = read_resources(files[path], path)
        for image, title, text in _read_boards(resource, path):
            titles, texts = (
                _translate(source, languages, translations) for source in (title, text)
            )
            if len(titles) == len(texts) == len(languages):
                name = image.rpartition("/")[2].partition(".")[0]
                found.append(
                    Photograph(
                        key=f"{GCOMPRIS.key}-{activity.removeprefix('explore_')}-{name}".replace(
                            "_", "-"
                        ),
                        image=resource[image],
                        group=f"{GCOMPRIS.key}/{activity}",
                        titles=titles if has_titles else {},
                        descriptions=texts,
                    )
                )
    return found


def _read_translations(files: Mapping[str, bytes], language: str) -> dict[str, str]:
    """Return English text -> translation; empty if the package lacks the language."""
    path = f"{_CATALOGUES}{language}.qm"
    if path not in files:
        return {}
    messages = read_catalogue(files[path], path)
    return {
        _join(one.source): _join(one.translation)
        for one in messages
        if one.context.startswith("board")
    }


def _read_boards(resource: Mapping[str, bytes], where: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, English title, English text) of the photographs in the order of their paths."""
    entries: dict[str, tuple[str, str]] = {}
    for path in sorted(resource):
        if _BOARD.search(path):
            for found in _OBJECT.findall(resource[path].decode("utf-8", errors="replace")):
                fields = {name: _unescape(value) for name, value in _FIELD.findall(found)}
                image = fields.get("image2", "").removeprefix(_SCHEME)
                if not image.endswith(".webp") or not {"title", "text"} <= fields.keys():
                    continue
                if image not in resource:
                    raise DataError(f"{where}, {path}: there is no photograph '{image}'")
                entries.setdefault(image, (_join(fields["title"]), _join(fields["text"])))
    for image in sorted(entries):
        yield image, *entries[image]


def _translate(
    source: str, languages: Sequence[str], translations: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return language -> text, of the languages that have it."""
    texts = {
        language: source if language == ENGLISH else translations[language].get(source, "")
        for language in languages
    }
    return {language: text for language, text in texts.items() if text}


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value)


def _join(text: str) -> str:
    return " ".join(clean_text(text).split())
