"""Benchmark shards, read as one item per question and language.

The shards have the format of the training data (tar, index, manifest). A sample consists of an
image and the questions about it, each in every language.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.reading import parse_json
from datamodules.shards.manifest import Modality, load_manifest, open_shard
from datamodules.shards.reader import ShardReader
from evaluation.benchmarks.images import add_image_keys
from evaluation.benchmarks.item_texts import (
    check_choices,
    check_index,
    check_text,
    check_texts,
    parse_text,
)


class Benchmark(StrEnum):
    """Kinds of benchmarks, each with its own score."""

    VQA = "vqa"
    """Open questions with ten human answers: VQA accuracy."""
    MULTIPLE_CHOICE = "mc"
    """Multiple choice (A-OKVQA): accuracy."""
    CAPTION_QA = "capqa"
    """Yes/no questions (PixMo-CapQA): accuracy, F1 and yes-ratio."""
    DIRECT = "da"
    """Direct answers (A-OKVQA): min(1, number of equal human answers / 3)."""
    OPEN = "open"
    """Free text against reference answers: chrF and ANLS."""
    WILD = "wild"
    """Free text without reference answers (WildVision): share of non-empty replies, whose quality
    annotators and judges compare."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkItem:
    """One question about one image in one language."""

    dataset: str
    """Name of the benchmark's manifest."""
    question_id: str
    """Identifier of the question, the same in every language."""
    benchmark: Benchmark
    answer_type: str
    question_type: str
    language: str
    image_key: str
    """Cluster for the statistics, because questions about one image are not independent."""
    image: bytes = dataclasses.field(repr=False)
    """The encoded image; empty if the benchmark was loaded without images."""
    question: str
    answers: tuple[str, ...]
    """Human answers (ten for vqa), the correct answer (capqa) or the correct choice (mc)."""
    choices: tuple[str, ...]
    """The choices of a multiple-choice question, otherwise empty."""
    correct_choice: int | None


def load_benchmarks(
    manifest_paths: Iterable[Path], languages: Sequence[str] | None = None
) -> list[BenchmarkItem]:
    """Load all questions of several benchmarks, in the order of the manifests.

    Args:
        manifest_paths: Manifests of the benchmarks.
        languages: Languages to load; None for all languages of each benchmark.

    Raises:
        DataError: If a benchmark can't be loaded, or two have the same name.
    """
    items: list[BenchmarkItem] = []
    paths: dict[str, Path] = {}
    for path in manifest_paths:
        loaded = load_benchmark(path, languages)
        name = load_manifest(path).name
        if name in paths:
            raise DataError(
                f"the benchmarks {paths[name]} and {path} are both named '{name}'; import one of "
                "them under another name"
            )
        paths[name] = path
        items += loaded
    return items


def load_benchmark(
    manifest_path: Path, languages: Sequence[str] | None = None, *, with_images: bool = True
) -> list[BenchmarkItem]:
    """Load all questions of a benchmark.

    Items are ordered by shard, then by question, then by language.

    Args:
        manifest_path: Manifest of the benchmark.
        languages: Languages to load; None for all languages of the benchmark.
        with_images: Whether to read the images.

    Raises:
        DataError: If the manifest is not a benchmark, lacks a language or has an invalid item.
    """
    manifest = load_manifest(manifest_path)
    if manifest.modality is not Modality.BENCHMARK:
        raise DataError(
            f"{manifest_path.name} holds {manifest.modality} data, expected {Modality.BENCHMARK}; "
            "use a manifest named benchmark_*"
        )
    available = manifest.language.split(",")
    wanted = list(languages) if languages is not None else available
    if missing := sorted(set(wanted) - set(available)):
        raise DataError(
            f"benchmark '{manifest.name}' has no {', '.join(missing)}; it has "
            f"{', '.join(available)}; remove the others from evaluation.languages"
        )
    items: list[BenchmarkItem] = []
    locations: dict[str, tuple[ShardReader, int]] = {}
    for entry in manifest.shards:
        reader = open_shard(manifest_path, entry)
        add_image_keys(reader, locations)
        for row in range(len(reader)):
            items += _read_sample(reader, row, wanted, manifest.name, with_image=with_images)
        reader.close()
    _check_unique(items, manifest.name)
    return items


def check_item(item: Mapping[str, Any], languages: Collection[str], where: str) -> None:
    """Check an item as a shard stores it, with its texts by language.

    Args:
        item: The item.
        languages: Languages in which it is asked.
        where: Name of the benchmark for error messages.

    Raises:
        DataError: If it can't be asked or scored in a language, or its choices differ between
            languages. The message names the question.
    """
    place = f"{where}, question '{item.get('question_id')}'"
    kind = item.get("benchmark")
    if kind not in list(Benchmark):
        known = ", ".join(Benchmark)
        raise DataError(f"{place}: {kind!r} is not a kind of benchmark ({known})", "unknown kind")
    parse_text(item.get("question_id"), f"{where}, question_id")
    for name in ("answer_type", "question_type"):
        check_text(item.get(name), f"{place}, {name}")
    numbers: dict[str, int] = {}
    for language in languages:
        inside = f"{place} in '{language}'"
        check_text(_in_language(item, "question", language), f"{inside}, question")
        if kind == Benchmark.MULTIPLE_CHOICE:
            choices = check_texts(_in_language(item, "choices", language), f"{inside}, choices")
            check_choices(choices, f"{inside}, choices")
            check_index(item.get("correct_choice"), choices, f"{inside}, correct_choice")
            numbers[language] = len(choices)
        elif kind != Benchmark.WILD:
            check_texts(_in_language(item, "answers", language), f"{inside}, answers")
    if len(set(numbers.values())) > 1:
        raise DataError(f"{place}: the numbers of choices differ: {numbers}", "choices differ")


def _in_language(item: Mapping[str, Any], name: str, language: str) -> Any:
    texts = item.get(name)
    return texts.get(language) if isinstance(texts, Mapping) else None


def _read_sample(
    reader: ShardReader, row: int, languages: Sequence[str], dataset: str, *, with_image: bool
) -> list[BenchmarkItem]:
    key = reader.key(row)
    content, image = reader.read(row, with_image=with_image)
    try:
        if image is None and with_image:
            raise DataError("no image")
        return [
            item
            for raw in _raw_items(content)
            for item in _parse_item(raw, languages, key, image or b"", dataset)
        ]
    except (ValueError, DataError) as error:
        raise DataError(
            f"benchmark sample '{key}' in {reader.name}: {error}; correct or prepare the data again"
        ) from error


def _raw_items(content: bytes) -> list[dict[str, Any]]:
    raw = parse_json(content)
    items = raw.get("items") if isinstance(raw, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError("the JSON has no list of objects 'items'")
    return items


def _parse_item(
    raw: dict[str, Any], languages: Sequence[str], key: str, image: bytes, dataset: str
) -> Iterator[BenchmarkItem]:
    check_item(raw, languages, f"benchmark '{dataset}'")
    benchmark = Benchmark(raw["benchmark"])
    is_choice = benchmark is Benchmark.MULTIPLE_CHOICE
    correct = raw["correct_choice"] if is_choice else None
    for language in languages:
        choices = tuple(raw["choices"][language]) if is_choice else ()
        answers: tuple[str, ...] = ()
        if correct is not None:
            answers = (choices[correct],)
        elif benchmark is not Benchmark.WILD:
            answers = tuple(raw["answers"][language])
        yield BenchmarkItem(
            dataset=dataset,
            question_id=str(raw["question_id"]),
            benchmark=benchmark,
            answer_type=raw["answer_type"],
            question_type=raw["question_type"],
            language=language,
            image_key=key,
            image=image,
            question=raw["question"][language],
            answers=answers,
            choices=choices,
            correct_choice=correct,
        )


def _check_unique(items: Sequence[BenchmarkItem], name: str) -> None:
    seen: set[tuple[str, str, str]] = set()
    for item in items:
        identity = (item.benchmark, item.question_id, item.language)
        if identity in seen:
            raise DataError(
                f"benchmark '{name}': question_id '{item.question_id}' appears twice in "
                f"{item.benchmark}/{item.language}; paired comparisons need unique ids"
            )
        seen.add(identity)
