"""Kaleidoscope (CohereLabs/kaleidoscope): exam questions in 18 languages, half of them with images.

The location is the folder of the data set: data/train-*.parquet, and the folder final_data with the
images, which is what data.zip holds. The column `image` is a path inside of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import safe_join
from data_prep.prepare.reading.rows import read_whole

_IMAGES = "final_data"
_IMAGE_MARK = "<image>"
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_COLUMNS = ("language", "question", "options", "answer", "image")


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question, with its number over all files as its id.

    Raises:
        DataError: If a file or the folder of images is missing, or the files have other columns.
    """
    folder = Path(place)
    images = folder / _IMAGES
    if not images.is_dir():
        raise DataError(f"{images} does not exist; unpack data.zip of the data set in {folder}")
    for number, row in enumerate(read_whole(str(folder / "data" / "train-*.parquet"))):
        if missing := [name for name in _COLUMNS if name not in row]:
            raise DataError(f"{folder}, row {number} has no column '{missing[0]}'")
        options = [str(option) for option in row["options"] or ()]
        has_image_options = any(one.lower().endswith(_IMAGE_ENDINGS) for one in options)
        yield {
            "question_id": number,
            "language": row["language"],
            "no_image_or_image_options": not row["image"] or has_image_options,
            "image": safe_join(images, row["image"]) if row["image"] else None,
            "question": _without_mark(row["question"]),
            "choices": [_without_mark(option) for option in options],
            "correct_choice": row["answer"],
            "category": row.get("general_category_en") or "any",
        }


def _without_mark(text: Any) -> str:
    """Return a text without the placeholder of the image, which the prompt adds by itself."""
    return str(text or "").replace(_IMAGE_MARK, "").strip()
