"""Amounts of target-language data of a training stage, and how often each answer is trained.

Everything is a pure function of the mixture and the sources: it can be computed before, during and
after a training, and covers all ranks and attempts.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.errors import DataError
from core.io.files import atomic_write_text
from core.io.reading import reading
from core.samples import Role
from datamodules.batches.lengths import SourceLengths
from datamodules.mixture.stream import MixtureStream
from datamodules.shards.source import Source

TARGET_DATA_FILE = "target_data.json"
EXPOSURES_FILE = "exposures.json"
MAX_ANSWER_WORDS = 8
"""Longer answers are not names; they hardly ever repeat, and are not counted."""
_CHUNK_STEPS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataAmount:
    """Usable samples of one part of a mixture."""

    num_samples: int = 0
    """Samples, with repetitions."""
    num_different: int = 0
    """Different samples."""
    num_loss_tokens: int = 0
    """Loss tokens, with repetitions."""

    def __add__(self, other: "DataAmount") -> "DataAmount":
        """Return the sum of two parts that share no sample."""
        return DataAmount(
            num_samples=self.num_samples + other.num_samples,
            num_different=self.num_different + other.num_different,
            num_loss_tokens=self.num_loss_tokens + other.num_loss_tokens,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TargetData:
    """Amounts of a training stage by language; a second target language is not part of them."""

    language: str
    """The target language."""
    target_images: DataAmount
    """Samples with images in the target language."""
    base_images: DataAmount
    """Samples with images in the base language."""
    target_texts: DataAmount
    """Samples without images in the target language."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the amounts that `dataclasses.asdict` converted."""
        parts = {name: DataAmount(**raw[name]) for name in _PARTS}
        return cls(language=raw["language"], **parts)


_PARTS = ("target_images", "base_images", "target_texts")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exposures:
    """Number of times each short answer is trained in the target language."""

    language: str
    with_image: Mapping[str, int]
    """Answer as it is stored -> number of trained turns of samples with images."""
    without_image: Mapping[str, int]
    """The same for samples without images."""


def measure_target_data(
    stream: MixtureStream, lengths: Mapping[str, SourceLengths], *, num_steps: int
) -> TargetData | None:
    """Count the samples of each language in a stage; None for a mixture of one language.

    Args:
        stream: The mixture stream.
        lengths: Token counts of every source that the stream uses, by source name.
        num_steps: Optimizer steps of the stage.
    """
    language = _target_language(stream)
    if language is None:
        return None
    amounts = dict.fromkeys(_PARTS, DataAmount())
    for part, source, uses in _iterate_uses(stream, lengths, num_steps):
        samples = np.flatnonzero(uses)
        loss_tokens = lengths[source.name].loss_tokens_of(samples).astype(np.int64)
        amounts[part] += DataAmount(
            num_samples=int(uses.sum()),
            num_different=len(samples),
            num_loss_tokens=int((uses[samples] * loss_tokens).sum()),
        )
    return TargetData(language=language, **amounts)


def count_exposures(
    stream: MixtureStream,
    lengths: Mapping[str, SourceLengths],
    *,
    num_steps: int,
) -> Exposures | None:
    """Count how often a stage trains each short answer in the target language.

    Args:
        stream: The mixture stream.
        lengths: Token counts of every source that the stream uses, by source name.
        num_steps: Optimizer steps of the stage.

    Returns:
        The counts; None for a mixture of one language, or one whose target-language sources are
        remote: reading all of their records again would cost as much as the training's own reading.
    """
    language = _target_language(stream)
    if language is None:
        return None
    counts = {part: Counter[str]() for part in _PARTS}
    for part, source, uses in _iterate_uses(stream, lengths, num_steps):
        if part == "base_images":
            continue
        if source.is_remote:
            return None
        for sample in np.flatnonzero(uses).tolist():
            for answer in _short_answers(source, sample):
                counts[part][answer] += int(uses[sample])
    return Exposures(
        language=language,
        with_image=dict(counts["target_images"]),
        without_image=dict(counts["target_texts"]),
    )


def save_target_data(folder: Path, data: TargetData, exposures: Exposures | None) -> None:
    """Write the amounts and, if they are known, the exposures into a folder."""
    amounts = json.dumps(dataclasses.asdict(data), indent=1)
    atomic_write_text(folder / TARGET_DATA_FILE, amounts + "\n")
    if exposures is not None:
        counts = dataclasses.asdict(exposures)
        text = json.dumps(counts, ensure_ascii=False, indent=0, sort_keys=True)
        atomic_write_text(folder / EXPOSURES_FILE, text + "\n")


def load_exposures(folder: Path) -> Exposures | None:
    """Read what `save_target_data` wrote; None if there are no exposures.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / EXPOSURES_FILE
    if not path.is_file():
        return None
    with reading(path, fix="delete the result folder to run the training again"):
        return Exposures(**json.loads(path.read_text(encoding="utf-8")))


def _target_language(stream: MixtureStream) -> str | None:
    return next((c.target.language for c in stream.components if c.target is not None), None)


def _iterate_uses(
    stream: MixtureStream, lengths: Mapping[str, SourceLengths], num_steps: int
) -> Iterator[tuple[str, Source, np.ndarray]]:
    """Yield the part, the source and how often each of its samples is trained, int64."""
    language = _target_language(stream)
    for c, component in enumerate(stream.components):
        for is_target in (False, True):
            source = component.source(is_target=is_target)
            if source.name not in lengths or (is_target and component.target is None):
                continue
            if not source.has_images and source.language != language:
                continue
            if is_target and source.language != language:
                continue
            part = "target_images" if source.language == language else "base_images"
            if not source.has_images:
                part = "target_texts"
            uses = _count_uses(stream, c, num_steps, is_target=is_target)
            uses[lengths[source.name].tokens_of(slice(None)) == 0] = 0
            yield part, source, uses


def _count_uses(
    stream: MixtureStream, component: int, num_steps: int, *, is_target: bool
) -> np.ndarray:
    """Return how often each sample of a component is drawn in one language."""
    part, batch_size = stream.components[component], stream.samples_per_step
    uses = np.zeros(len(part.source(is_target=is_target)), dtype=np.int64)
    for first in range(0, num_steps, _CHUNK_STEPS):
        stop = min(num_steps, first + _CHUNK_STEPS)
        located = stream.locate(np.arange(first * batch_size, stop * batch_size))
        here = (located.component == component) & (located.is_target == is_target)
        uses += np.bincount(located.sample[here], minlength=len(uses))
    return uses


def _short_answers(source: Source, sample: int) -> Iterator[str]:
    """Yield the short answers of a sample; a sample that can't be read has none."""
    try:
        turns = source.read(sample, with_image=False).turns
    except DataError:
        return
    for turn in turns:
        if turn.role is Role.ASSISTANT and len(turn.content.split()) <= MAX_ANSWER_WORDS:
            yield turn.content
