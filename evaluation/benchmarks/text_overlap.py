"""Detection of benchmark texts in training data: question-answer pairs and longer passages.

A pair that was trained on with another image does not reveal an answer, but a model can repeat it
without looking. A longer passage of the benchmark, such as the description that a question asks
about, is hardly there by chance.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.rng import named_rng
from core.samples import Role, Turn
from datamodules.shards.manifest import load_manifest, open_shard
from datamodules.shards.records import parse_record
from evaluation.answers.rule import normalise_neutral
from evaluation.benchmarks.items import BenchmarkItem

_PASSAGE_WORDS = 8
"""Words of a passage; GPT-3 used 13 for documents, questions are shorter."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextOverlap:
    """Benchmark texts that also occur in training data."""

    num_items: int
    num_training: int
    """Number of training samples that were read."""
    num_pairs: int
    """Items whose question was trained on, literally, with one of the accepted answers."""
    num_long: int
    """Items whose question or answers have a passage of eight words."""
    num_passages: int
    """Items of which such a passage was trained on."""
    is_sample: bool
    """Whether only a random sample of the training samples was read."""


def check_texts(
    items: Sequence[BenchmarkItem], training: Sequence[Path], *, max_training: int
) -> TextOverlap:
    """Compare the texts of benchmark items with those of training sources.

    Texts are compared after neutral normalisation, in the language of the item.

    Args:
        items: Items of the benchmarks.
        training: Manifests of the training sources.
        max_training: Number of training samples above which a random sample of about this size is
            read.

    Raises:
        DataError: If a manifest or shard does not exist.
    """
    pairs: dict[tuple[str, str], set[int]] = {}
    passages: dict[tuple[str, ...], set[int]] = {}
    for at, item in enumerate(items):
        question = normalise_neutral(item.question)
        for answer in {normalise_neutral(answer) for answer in item.answers}:
            pairs.setdefault((question, answer), set()).add(at)
        for text in {question, *map(normalise_neutral, item.answers)}:
            for passage in _passages(text):
                passages.setdefault(passage, set()).add(at)
    total = sum(load_manifest(path).num_samples for path in training)
    share = 1.0 if total <= max_training else max_training / total
    with_pair, with_passage, num_read = set[int](), set[int](), 0
    for turns in _read_turns(training, share):
        num_read += 1
        for turn, reply in pairwise(turns):
            if reply.role is Role.ASSISTANT:
                pair = (_plain(turn), _plain(reply))
                with_pair |= pairs.get(pair, set())
        for turn in turns if passages else ():
            for passage in _passages(_plain(turn)):
                with_passage |= passages.get(passage, set())
    return TextOverlap(
        num_items=len(items),
        num_training=num_read,
        num_pairs=len(with_pair),
        num_long=len(set().union(*passages.values())),
        num_passages=len(with_passage),
        is_sample=share < 1,
    )


def _read_turns(manifests: Sequence[Path], share: float) -> Iterator[tuple[Turn, ...]]:
    for path in manifests:
        manifest = load_manifest(path)
        for entry in manifest.shards:
            rng = named_rng(0, "text overlap", manifest.name, entry.path)
            reader = open_shard(path, entry)
            for row in range(len(reader)):
                if share < 1 and rng.random() >= share:
                    continue
                content, image = reader.read(row)
                try:
                    _, turns = parse_record(
                        content, manifest.record, reader.key(row), has_image=image is not None
                    )
                except DataError:
                    continue  # training skips and counts such samples
                yield turns
            reader.close()


def _plain(turn: Turn) -> str:
    return normalise_neutral(turn.content.replace(IMAGE_MARK, " "))


def _passages(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    for start in range(len(words) - _PASSAGE_WORDS + 1):
        yield tuple(words[start : start + _PASSAGE_WORDS])
