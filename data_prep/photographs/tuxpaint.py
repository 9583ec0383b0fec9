"""Photographs of Tux Paint's stamps, with a caption in up to 78 languages.

A stamp is an image with a text file beside it, whose first line is the English caption and whose
further lines are `CODE.utf8=caption`. The photographs are cut-outs: PNG files with transparency.
Drawings are left out: SVG files, and the folders `cartoon`.
"""

import re
from collections.abc import Iterable, Sequence

from core.errors import DataError
from core.io.files import sha256_bytes
from core.text import clean_text
from data_prep.embedded.packages import PackageFolder
from data_prep.photographs.photograph import ENGLISH, Photograph, PhotoPackage

TUX_PAINT = PhotoPackage(key="tuxpaint", name="tuxpaint-stamps-default", licence="GPL-2.0-or-later")

_FOLDER = "usr/share/tuxpaint/stamps/"
_SUFFIXES = (".png", ".txt")
_NO_PHOTOGRAPHS = frozenset({"cartoon", "flags", "money", "roadsigns", "symbols"})
"""Names of folders with drawings, signs, letters and numbers."""
_WRONG_CAPTIONS = {
    "eu": frozenset(
        {
            "A button",
            "A crash cymbal",
            "A dolphinfish",
            "A dry erase marker",
            "A hedgehog",
            "A tooth",
        }
    )
}
"""Language -> English captions whose translation names another thing (hedgehog: a snow sledge)."""
_ENCODING = ".utf8"
_MAX_NAME_CHARS = 24
_DIGEST_CHARS = 6


def read_stamps(packages: PackageFolder, languages: Sequence[str]) -> list[Photograph]:
    """Return the photographs with a caption in all languages.

    Raises:
        DataError: If the package can't be downloaded or read, or a text file is damaged.
    """
    return parse_stamps(packages.debian_files(TUX_PAINT.name, _FOLDER, _SUFFIXES), languages)


def parse_stamps(files: Iterable[tuple[str, bytes]], languages: Sequence[str]) -> list[Photograph]:
    """Return the photographs among the files of the package, by path.

    Args:
        files: (path below the folder of stamps, content) of the images and texts.
        languages: Languages that a caption must have.

    Raises:
        DataError: If a text file is damaged.
    """
    kept = {
        path: content for path, content in files if _NO_PHOTOGRAPHS.isdisjoint(path.split("/")[:-1])
    }
    found = []
    for path in sorted(kept):
        stem, _, suffix = path.rpartition(".")
        text = f"{stem}.txt"
        if suffix != "png" or text not in kept:
            continue
        captions = parse_captions(kept[text], text)
        english = captions.get(ENGLISH, "")
        is_wrong = any(english in _WRONG_CAPTIONS.get(language, ()) for language in languages)
        if not is_wrong and all(captions.get(language) for language in languages):
            found.append(
                Photograph(
                    key=_make_key(stem),
                    image=kept[path],
                    group=f"{TUX_PAINT.key}/" + stem.rpartition("/")[0],
                    titles={language: captions[language] for language in languages},
                )
            )
    return found


def parse_captions(content: bytes, where: str) -> dict[str, str]:
    """Return language -> caption of a text file, without the mark at its end.

    Raises:
        DataError: If the file is not UTF-8.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{TUX_PAINT.name}, {where}: it is not UTF-8 ({error})") from error
    captions = {ENGLISH: _clean(lines[0])} if lines else {}
    for line in lines[1:]:
        name, mark, caption = line.partition("=")
        code = name.strip().removesuffix(_ENCODING)
        if mark and name.strip().endswith(_ENCODING) and code:
            captions.setdefault(code, _clean(caption))
    return captions


def _make_key(stem: str) -> str:
    """Return a short key that differs for equal file names in different folders."""
    name = re.sub(r"[^a-z0-9]+", "-", stem.rpartition("/")[2].lower())[:_MAX_NAME_CHARS]
    return f"{TUX_PAINT.key}-{name.strip('-')}-{sha256_bytes(stem.encode())[:_DIGEST_CHARS]}"


def _clean(caption: str) -> str:
    return " ".join(clean_text(caption).split()).rstrip(".! ")
