"""Text-only twin of MVL-SIB: the topic is named in the question, and the image is blank.

Questions, sentences and their order are those of `mvl_sib`, so that the difference of two scores of
a model is what the image costs it. The location is the same.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.prepare.reading.benchmarks.mvl_sib import topic_questions

_QUESTION = "Which of these sentences has the topic '{topic}'?"
_SIDE, _WHITE = 64, (255, 255, 255)


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per sentence of a language.

    Raises:
        DataError: If a file is missing, or has other columns.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), _WHITE).save(buffer, "PNG")
    for one in topic_questions(Path(place)):
        yield {
            "question_id": one.index_id,
            "image": buffer.getvalue(),
            "question": _QUESTION.format(topic=one.topic),
            "choices": one.sentences,
            "correct_choice": one.correct,
            "topic": one.topic,
        }
