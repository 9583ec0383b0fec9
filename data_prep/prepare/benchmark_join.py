"""Joining the rows of a published benchmark: one question in several languages about one image."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.io.hub import hub_arguments
from core.io.images import decode_image
from data_prep.prepare.benchmark_recipe import (
    NO_COLUMN,
    BenchmarkRecipe,
    is_left_out,
    is_other_language,
    parse_id,
    read_item,
)
from data_prep.prepare.reading.benchmarks import read_benchmark
from data_prep.prepare.reading.rows import read_whole
from data_prep.prepare.same_image import ImageDigest
from data_prep.shards.writer import ShardSample
from evaluation.benchmarks.gate import ItemGate

_HUB = "hub:"


def read_rows(place: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source, with images as bytes.

    Raises:
        ConfigError: If the location cannot be read.
        DataError: If a file is damaged.
    """
    if place.startswith(_HUB):
        yield from _hub_rows(place.removeprefix(_HUB))
        return
    yield from read_whole(place)


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    try:
        import datasets  # comes with the extra `harness`; heavy
    except ImportError as error:
        raise ConfigError("hub: needs `datasets`; pip install '.[harness]'") from error
    rest, _, revision = name.partition("@")
    repository, _, split = rest.partition(":")
    arguments = hub_arguments(repository, revision, kind="dataset")
    found = datasets.load_dataset(repository, split=split or "test", **arguments)
    for column, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(column, datasets.Image(decode=False))
    yield from found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedBenchmark:
    """A benchmark in all its languages."""

    samples: tuple[ShardSample, ...]
    """One sample per image, which holds the items about it."""
    items: tuple[dict[str, Any], ...]
    """The same items in the order of the rows."""
    counts: Counter[str]
    """Number of questions, and of rows left out by reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Question:
    """A question in one language."""

    item: dict[str, Any]
    image: bytes
    where: str


def build(
    recipe: BenchmarkRecipe,
    sources: Mapping[str, str],
    *,
    limit: int = 0,
    max_unusable: float = 0.0,
) -> ImportedBenchmark:
    """Join the questions of all languages and group them by image.

    Every row becomes part of a question or is counted in `counts` by the reason why not.

    Args:
        recipe: Description of the rows.
        sources: Language -> location of its rows.
        limit: Maximum number of questions; 0 means all.
        max_unusable: Maximum share of rows that can't be asked or scored; more are an error.

    Raises:
        DataError: If a row lacks a column of the recipe, an id appears twice in a language, too
            many rows can't be used, or no question is in all languages.
    """
    reader, gate = _RowReader(recipe), ItemGate(recipe.benchmark, sources)
    by_language = {language: reader.read(language, place) for language, place in sources.items()}
    first, *others = sources
    for language in others:
        absent = by_language[language].keys() - by_language[first].keys()
        reader.count(f"{language}: not in {first}", len(absent))
    samples: dict[str, ShardSample] = {}
    joined: list[dict[str, Any]] = []
    for key in by_language[first]:
        if missing := [language for language in sources if key not in by_language[language]]:
            present = [language for language in sources if language not in missing]
            reader.count(f"{missing[0]}: missing", len(present))
            continue
        questions = {language: by_language[language][key] for language in sources}
        item = _merge_languages(recipe, key, questions)
        try:
            _check_correspondence(key, questions)
            gate.check(item, questions[first].where)
        except DataError as error:
            reader.leave_out("all languages", error, len(questions))
            continue
        if limit and len(joined) >= limit:
            reader.count("beyond --limit", len(questions))
            continue
        image = questions[first].image
        name = hashlib.sha256(image).hexdigest()[:16]
        sample = samples.setdefault(name, ShardSample(key=name, content={"items": []}, image=image))
        joined.append(item)
        sample.content["items"].append(item)
    reader.check(max_unusable, num_used=len(joined) * len(sources))
    if empty := [place for language, place in sources.items() if not by_language[language]]:
        raise DataError(f"{empty[0]} has no usable rows: {dict(reader.counts)}; check it", "empty")
    if not samples:
        raise DataError(
            f"no question exists in all of {', '.join(sources)}: {dict(reader.counts)}; check the "
            "question_id of the recipe",
            "empty",
        )
    counts = Counter({"questions": len(joined)}) + reader.counts
    return ImportedBenchmark(samples=tuple(samples.values()), items=tuple(joined), counts=counts)


class _RowReader:
    """Reads the rows of every language and accounts for each of them."""

    def __init__(self, recipe: BenchmarkRecipe) -> None:
        self.counts: Counter[str] = Counter()
        self._recipe, self._num_rows, self._num_unusable = recipe, 0, 0
        self._first_error: DataError | None = None

    def count(self, reason: str, num_rows: int) -> None:
        """Count rows that are left out."""
        if num_rows:
            self.counts[reason] += num_rows

    def leave_out(self, language: str, error: DataError, num_rows: int = 1) -> None:
        """Count rows that can't be used; a missing column is an error of the recipe."""
        if error.fault == NO_COLUMN:
            raise error
        self.count(f"{language}: {error.fault}", num_rows)
        self._num_unusable += num_rows
        self._first_error = self._first_error or error

    def read(self, language: str, place: str) -> dict[str, _Question]:
        """Return the questions of a language by id."""
        column = self._recipe.columns.question_id
        found: dict[str, _Question] = {}
        reader = self._recipe.reader
        table = read_benchmark(reader, place) if reader else read_rows(place)
        for number, row in enumerate(table):
            self._num_rows += 1
            where = f"{place}, row {number}"
            try:
                if is_other_language(self._recipe, row, language, where):
                    self.count(f"{language}: another {self._recipe.language_column}", 1)
                    continue
                if is_left_out(self._recipe, row, where):
                    self.count(f"{language}: {self._recipe.leave_out_if}", 1)
                    continue
                item = read_item(self._recipe, row, where)
                key = parse_id(row[column], f"{where}, {column}") if column else str(number)
                image = _image_bytes(row[self._recipe.columns.image], where)
            except DataError as error:
                self.leave_out(language, error)
                continue
            if key in found:
                raise DataError(
                    f"{where}: the id '{key}' is also that of {found[key].where}; every question "
                    "needs a unique id (does the column hold the id of the image?)",
                    "id appears twice",
                )
            found[key] = _Question(item=item, image=image, where=where)
        return found

    def check(self, max_unusable: float, *, num_used: int) -> None:
        """Check the budget of unusable rows, and that every row is accounted for."""
        if self._first_error is not None and self._num_unusable > max_unusable * self._num_rows:
            hint = f"{self._num_unusable} of {self._num_rows} rows can't be used"
            raise DataError(
                f"{self._first_error} ({hint}; correct them, or leave them out with "
                "--max-unusable FRACTION)",
                self._first_error.fault,
            )
        if self._num_rows != num_used + self.counts.total():
            raise DataError(
                f"{self._num_rows} rows in, {num_used} used and {self.counts.total()} left out do "
                "not add up; please report this bug",
                "rows lost",
            )


def _check_correspondence(key: str, questions: Mapping[str, _Question]) -> None:
    """Check that the question has the same image and options in every language."""
    first = next(iter(questions.values()))
    for question in questions.values():
        is_same = question.image == first.image or ImageDigest.of(question.image).is_same_image(
            ImageDigest.of(first.image)
        )
        if not is_same:
            raise DataError(
                f"question '{key}' has different images in {first.where} and {question.where}; "
                "the rows do not belong together",
                "images differ",
            )
    shapes = {
        language: (len(question.item["choices"]), question.item["correct_choice"])
        for language, question in questions.items()
        if "choices" in question.item
    }
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"question '{key}': number of choices and correct_choice are {shapes}; give the "
            "options in the same order in every language",
            "choices differ",
        )


def _merge_languages(
    recipe: BenchmarkRecipe, key: str, questions: Mapping[str, _Question]
) -> dict[str, Any]:
    items = {language: question.item for language, question in questions.items()}
    first = next(iter(items.values()))
    merged = {
        "question_id": key,
        "benchmark": recipe.benchmark,
        "answer_type": first["answer_type"],
        "question_type": first["question_type"],
        "question": {language: item["question"] for language, item in items.items()},
    }
    for name in ("answers", "choices"):
        if name in first:
            merged[name] = {language: item[name] for language, item in items.items()}
    if "correct_choice" in first:
        merged["correct_choice"] = first["correct_choice"]
    return merged


def _image_bytes(value: Any, where: str) -> bytes:
    """Return the image of a row: bytes, an object with `bytes`, or a file that a reader names."""
    try:
        image = value.read_bytes() if isinstance(value, Path) else value
    except OSError as error:
        raise DataError(f"{where}: {value}: {error.strerror}", "no image file") from error
    image = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(image, bytes):
        raise DataError(
            f"{where}: the image column holds {type(value).__name__}, expected image bytes",
            "no image",
        )
    try:
        decode_image(image)  # now rather than in the middle of an evaluation
    except DataError as error:
        raise DataError(f"{where}: {error}", error.fault) from error
    return image
