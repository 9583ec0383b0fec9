"""MVL-SIB (WueNLP/mvl-sib): which of four sentences has the topic of an image.

The location is the folder of a language, `FOLDER/data/sib200/eus_Latn`, with train.tsv, dev.tsv and
test.tsv (index_id, category, text); the images are FOLDER/data/images/sib200/{category}_{0..9}.jpg.

The published script draws the other sentences and the image of each question with NumPy's global
generator. Here they are drawn by this project, from the ids and topics alone, so that a question
has the same image and sentences in every language. Scores are therefore comparable between models
and languages, but not to the digit with published ones.
"""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.rng import named_rng

_SPLITS = ("train", "dev", "test")
_COLUMNS = ("index_id", "category", "text")
_NUM_CHOICES = 4
QUESTION = "Which of these sentences has the same topic as the image?"
"""In English for every language, as in the published benchmark."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TopicQuestion:
    """A question in one language."""

    index_id: str
    topic: str
    sentences: list[str]
    correct: int
    image: Path


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per sentence of a language.

    Raises:
        DataError: If a file is missing, or has other columns.
    """
    for one in topic_questions(Path(place)):
        try:
            image = one.image.read_bytes()
        except OSError as error:
            raise DataError(
                f"{one.image}: {error.strerror}; download data/images/sib200 as well"
            ) from error
        yield _row(one, QUESTION, image)


def _row(one: TopicQuestion, question: str, image: bytes) -> dict[str, Any]:
    return {
        "question_id": one.index_id,
        "image": image,
        "question": question,
        "choices": one.sentences,
        "correct_choice": one.correct,
        "topic": one.topic,
    }


def topic_questions(folder: Path) -> list[TopicQuestion]:
    """Return the questions of a language: each sentence with an image and three other topics.

    Raises:
        DataError: If a file is missing, or has other columns.
    """
    sentences = _read_sentences(folder)
    by_topic: dict[str, list[str]] = {}
    for index_id, (topic, _) in sentences.items():
        by_topic.setdefault(topic, []).append(index_id)
    images = folder.parent.parent / "images" / folder.parent.name
    questions = []
    for index_id, (topic, _) in sentences.items():
        rng = named_rng(0, "mvl_sib", index_id)
        others = rng.permutation(sorted(set(by_topic) - {topic})).tolist()[: _NUM_CHOICES - 1]
        ids = [by_topic[other][int(rng.integers(len(by_topic[other])))] for other in others]
        correct = int(rng.integers(_NUM_CHOICES))
        ids.insert(correct, index_id)
        number = int(rng.integers(_num_images(images, topic)))
        questions.append(
            TopicQuestion(
                index_id=index_id,
                topic=topic,
                sentences=[sentences[one][1] for one in ids],
                correct=correct,
                image=images / f"{topic}_{number}.jpg",
            )
        )
    return questions


def _num_images(folder: Path, topic: str) -> int:
    """Return the number of images of a topic, which are numbered from 0."""
    number = sum(1 for path in folder.glob(f"{topic}_*.jpg"))
    if number == 0:
        raise DataError(f"{folder} has no image {topic}_0.jpg; download data/images/sib200 as well")
    return number


def _read_sentences(folder: Path) -> dict[str, tuple[str, str]]:
    """Return id -> topic and sentence, in the order of the ids."""
    found: dict[str, tuple[str, str]] = {}
    for split in _SPLITS:
        path = folder / f"{split}.tsv"
        if not path.is_file():
            raise DataError(f"{path} does not exist; give the folder of a language, e.g. eus_Latn")
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [name for name in _COLUMNS if name not in (table.fieldnames or ())]:
                raise DataError(
                    f"{path} has no column '{missing[0]}'; expected {', '.join(_COLUMNS)}"
                )
            for number, row in enumerate(table, 2):
                index_id, topic, text = ((row[name] or "").strip() for name in _COLUMNS)
                if not index_id or not topic or not text:
                    raise DataError(f"{path}, line {number}: an empty cell; correct it")
                if index_id in found:
                    raise DataError(f"{path}, line {number}: index_id {index_id} appears twice")
                found[index_id] = (topic, text)
    topics = {topic for topic, _ in found.values()}
    if len(topics) < _NUM_CHOICES:
        raise DataError(f"{folder} has {len(topics)} topics, expected at least {_NUM_CHOICES}")
    return dict(sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0])))
