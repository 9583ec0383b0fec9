"""M3Exam (DAMO-NLP-SG/M3Exam): exam questions with images in nine languages.

The location is a file `LANGUAGE-questions-image.json` of the folder of multimodal questions; the
images are in the folder `images-LANGUAGE` beside it. Texts refer to an image as
"(image)[image-12.png]". Options and the answer have labels, "(2) a mouse" and "2".

Only questions about exactly one image outside of their options can be asked; others are counted.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import safe_join
from core.io.reading import read_json_file

_ENDING = "-questions-image.json"
_MARK = re.compile(r"(?:\(image\)\s*)?\[(image-\d+\.(?:jpe?g|png))\]", re.IGNORECASE)
_LABEL = re.compile(r"\s*\(?(\w{1,2})[).、]\s*(.*)", re.DOTALL)
_NO_OPTION = "nan"
"""Fills options of questions that have fewer than others."""


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question, with its number in the file as its id.

    Raises:
        DataError: If the file or an image is missing, or the file has another form.
    """
    path = Path(place)
    if not path.name.endswith(_ENDING):
        raise DataError(f"{path}: expected a file LANGUAGE{_ENDING} of M3Exam")
    images = path.parent / f"images-{path.name.removesuffix(_ENDING)}"
    raw = read_json_file(path, fix="download it again")
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise DataError(f"{path} is not a list of questions; download it again")
    for number, question in enumerate(raw):
        yield _row(question, images, number, f"{path}, question {number}")


def _row(question: dict[str, Any], images: Path, number: int, where: str) -> dict[str, Any]:
    options = question.get("options")
    background = question.get("background_description") or []
    if not isinstance(options, list) or not isinstance(background, list):
        raise DataError(f"{where}: options or background_description is no list; download it again")
    options = [str(option) for option in options if str(option).strip() != _NO_OPTION]
    parts = [*map(str, background), str(question.get("question_text") or "")]
    found = set(_MARK.findall("\n".join(parts)))
    is_askable = len(found) == 1 and not any(map(_MARK.search, options))
    labelled = [
        match.groups() if (match := _LABEL.fullmatch(one)) else ("", one) for one in options
    ]
    texts = [_MARK.sub("", part).strip() for part in parts]
    return {
        "question_id": number,
        "not_about_one_image": not is_askable,
        "image": safe_join(images, found.pop()) if is_askable else None,
        "question": "\n".join(filter(None, texts)),
        "choices": [text.strip() for _, text in labelled],
        "correct_choice": _index_of(question.get("answer_text"), [label for label, _ in labelled]),
        "subject": question.get("subject_category") or "any",
    }


def _split_label(option: str) -> tuple[str, str]:
    """Return the label of an option, empty if it has none, and its text."""
    match = _LABEL.fullmatch(option)
    return (match[1], match[2]) if match else ("", option)


def _index_of(answer: Any, labels: list[str]) -> int:
    """Return the index of the option with the label of the answer, -1 if it is not unique."""
    label = str(answer).strip().strip("().")
    return labels.index(label) if labels.count(label) == 1 else -1
