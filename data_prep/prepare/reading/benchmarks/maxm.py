"""MaXM: questions and answers in seven languages, about images of Crossmodal-3600.

The location is a file `maxm_v1_LANGUAGE.json`; the images are expected in the folder `images`
beside it, as {image_id}.jpg.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import safe_join
from core.io.reading import read_json_file


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question that is kept in the test set.

    Raises:
        DataError: If the file or an image is missing, or the file has another form.
    """
    path = Path(place)
    raw = read_json_file(path, fix="download it again")
    annotations = raw.get("annotations") if isinstance(raw, dict) else None
    if not isinstance(annotations, list):
        raise DataError(f"{path} has no list 'annotations'; download it again")
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("qa_pairs"), list):
            raise DataError(f"{path}: an annotation has no list 'qa_pairs'; download it again")
        image = safe_join(path.parent / "images", f"{annotation.get('image_id')}.jpg")
        if not image.is_file():
            raise DataError(f"{image} does not exist; put the images into {image.parent}")
        for pair in annotation["qa_pairs"]:
            yield {
                "question_id": pair.get("question_id"),
                "image": image.read_bytes(),
                "question": pair.get("question"),
                "answers": pair.get("processed_answers") or pair.get("answers"),
                "is_collection": bool(pair.get("is_collection", False)),
            }
