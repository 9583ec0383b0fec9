"""xGQA: questions in eight languages with English answers, about images of GQA.

The location is a file `testdev_balanced_questions_LANGUAGE.json`; the images of GQA are expected in
the folder `images` beside it, as {imageId}.jpg.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import safe_join
from core.io.reading import read_json_file


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question.

    Raises:
        DataError: If the file or an image is missing, or the file has another form.
    """
    path = Path(place)
    raw = read_json_file(path, fix="download it again")
    if not isinstance(raw, dict):
        raise DataError(f"{path} holds {type(raw).__name__}, expected question id -> question")
    for question_id, question in raw.items():
        if not isinstance(question, dict) or not isinstance(question.get("imageId"), str):
            raise DataError(f"{path}, question {question_id}: no imageId; download it again")
        image = safe_join(path.parent / "images", f"{question['imageId']}.jpg")
        if not image.is_file():
            raise DataError(f"{image} does not exist; put the images of GQA into {image.parent}")
        types = question.get("types")
        yield {
            "question_id": question_id,
            "image": image.read_bytes(),
            "question": question.get("question"),
            "answer": [question.get("answer")],
            "type": types.get("structural", "any") if isinstance(types, dict) else "any",
        }
