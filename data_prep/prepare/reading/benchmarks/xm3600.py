"""Crossmodal-3600 (floschne/xm3600, converted to Parquet): captions by speakers of 36 languages.

The location is the files of a language, `FOLDER/data/fr-*.parquet`. Every image is one question,
which asks for a caption; the captions of the language are its reference answers.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from core.errors import DataError
from data_prep.prepare.reading.rows import find_files, read_whole

_REQUEST = "Briefly describe the image in {language}."
"""In English for every language, as Centurio asks."""
_COLUMNS = ("image_id", "captions", "image")
_NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fil": "Filipino",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "mi": "Maori",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "quz": "Quechua",
    "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "te": "Telugu",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per image.

    Raises:
        DataError: If a file has other columns, or its name does not begin with a language.
    """
    for file in find_files(place):
        code = PurePosixPath(file).name.partition("-")[0]
        if code not in _NAMES:
            raise DataError(
                f"{file}: '{code}' is no language of Crossmodal-3600; keep the names of its files"
            )
        for number, row in enumerate(read_whole(file)):
            if missing := [name for name in _COLUMNS if name not in row]:
                raise DataError(f"{file}, row {number} has no column '{missing[0]}'")
            yield {
                "question_id": row["image_id"],
                "image": row["image"],
                "question": _REQUEST.format(language=_NAMES[code]),
                "answers": row["captions"],
            }
