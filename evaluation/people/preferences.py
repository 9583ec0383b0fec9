"""Preferences of people and judges per question, in a Parquet file that reports and claims read.

A file has one row per opinion, that is, per question, rater and judged aspect, and one row for each
question without an opinion. Reports look for the files in `preferences/` in the folder of a grid.
"""

import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError
from core.io.files import atomic_write_bytes, sha256_bytes
from evaluation.people.comparison import ComparedQuestion, ComparedSystem, SystemComparison
from evaluation.people.store import JUDGED_ASPECTS, SKIP, TIE, AnnotationStore
from evaluation.people.tasks import TaskKind

PREFERENCES_FOLDER = "preferences"
ASPECTS = JUDGED_ASPECTS[TaskKind.COMPARE]
OVERALL = "overall"
PREFERENCE_SCHEMA = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("is_identical", pa.bool_(), nullable=False),
        pa.field("place", pa.int32()),
        pa.field("rater", pa.string()),
        pa.field("aspect", pa.string()),
        pa.field("preference", pa.float64()),
    ]
)
"""Columns of a file of preferences.

`place` is the position of the question in the random order of its language, or null if it was not
drawn or has identical replies. `rater` (an annotator or the model name of a judge) and `aspect`
are null without an opinion. `preference` is that for the first system, from -1 to 1, where 0 is a
tie; it is null if the rater skipped the question or the judge's verdict is unreadable. The metadata
key `irudimen` holds source, systems, seed and size of the draw as JSON.
"""
_QUESTION_COLUMNS = [field.name for field in dataclasses.fields(ComparedQuestion)]
_METADATA_KEY = b"irudimen"


class PreferenceSource(StrEnum):
    """Kinds of raters."""

    PEOPLE = "people"
    JUDGE = "judge"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """Preference of one rater on one aspect of one question."""

    task_id: str
    rater: str
    aspect: str
    preference: float | None
    """Preference for the first system in -1..1; None if it was skipped or is unreadable."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceRecord:
    """All opinions of people, or of one judge, on a comparison of two systems."""

    source: PreferenceSource
    comparison: SystemComparison
    opinions: tuple[Opinion, ...]

    def __post_init__(self) -> None:
        """Check that every opinion concerns a question that was drawn, once per rater.

        Raises:
            DataError: If the opinions and the questions do not fit together.
        """
        questions = {question.task_id: question for question in self.comparison.questions}
        if len(questions) != len(self.comparison.questions):
            raise DataError("a question appears twice in the comparison; use unique ids")
        seen: set[tuple[str, str, str]] = set()
        for opinion in self.opinions:
            question = questions.get(opinion.task_id)
            if question is None or question.place is None:
                raise DataError(
                    f"the record has an opinion on '{opinion.task_id}', which was not drawn; "
                    "remove it, because it would bias a random sample"
                )
            key = (opinion.task_id, opinion.rater, opinion.aspect)
            if key in seen:
                raise DataError(f"{key} has two opinions; expected one per rater and aspect")
            seen.add(key)
            value = opinion.preference
            if value is not None and not (math.isfinite(value) and abs(value) <= 1):
                raise DataError(f"the preference of {key} is {value}; expected -1 to 1, or null")

    @property
    def raters(self) -> tuple[str, ...]:
        """Names of the raters, sorted."""
        return tuple(sorted({opinion.rater for opinion in self.opinions}))

    def swapped(self) -> "PreferenceRecord":
        """Return the record with the two systems exchanged."""
        comparison = dataclasses.replace(
            self.comparison, first=self.comparison.second, second=self.comparison.first
        )
        opinions = tuple(
            dataclasses.replace(
                opinion, preference=None if opinion.preference is None else -opinion.preference
            )
            for opinion in self.opinions
        )
        return dataclasses.replace(self, comparison=comparison, opinions=opinions)


def people_record(store: AnnotationStore) -> PreferenceRecord:
    """Return the preferences in an annotation database.

    Raises:
        DataError: If the tasks are not comparisons.
    """
    if store.kind is not TaskKind.COMPARE:
        raise DataError(f"{store.path} has tasks of kind {store.kind}, not comparisons")
    comparison = store.comparison
    values: Mapping[str, float | None] = {
        comparison.first.name: 1.0,
        TIE: 0.0,
        comparison.second.name: -1.0,
        SKIP: None,
    }
    opinions = tuple(
        Opinion(
            task_id=judgement.task_id,
            rater=judgement.annotator,
            aspect=aspect,
            preference=values[judgement.answers[aspect]],
        )
        for judgement in store.judgements()
        for aspect in ASPECTS
    )
    return PreferenceRecord(
        source=PreferenceSource.PEOPLE, comparison=comparison, opinions=opinions
    )


def save_preferences(folder: Path, record: PreferenceRecord) -> Path:
    """Write a record into a folder and return the path.

    The name depends on source, systems, languages and, for a judge, on its model, so that a later
    state of the same comparison replaces the earlier one.
    """
    comparison = record.comparison
    identity = [
        record.source,
        comparison.first.sha256,
        comparison.second.sha256,
        *comparison.languages,
        *(record.raters if record.source is PreferenceSource.JUDGE else ()),
    ]
    names = (record.source, comparison.first.name, comparison.second.name, *comparison.languages)
    readable = re.sub(r"[^\w.-]+", "_", "-".join(names))[:80]
    path = folder / f"{readable}-{sha256_bytes(repr(identity).encode())[:8]}.parquet"
    buffer = io.BytesIO()
    pq.write_table(_to_table(record), buffer, compression="zstd")
    atomic_write_bytes(path, buffer.getvalue())
    return path


def load_preferences(folder: Path) -> tuple[PreferenceRecord, ...]:
    """Read all records of a folder, ordered by file name; none if the folder does not exist.

    Raises:
        DataError: If a file is damaged or holds opinions outside its random sample.
    """
    return tuple(read_preferences(path) for path in sorted(folder.glob("*.parquet")))


def read_preferences(path: Path) -> PreferenceRecord:
    """Read a file of `save_preferences`.

    Raises:
        DataError: If the file is damaged, or holds opinions outside its random sample.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable file of preferences: {error}") from error
    if not table.schema.equals(PREFERENCE_SCHEMA, check_metadata=False):
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}; expected those of "
            "evaluation.people.preferences.PREFERENCE_SCHEMA"
        )
    try:
        record = _parse(json.loads((table.schema.metadata or {})[_METADATA_KEY]), table.to_pylist())
        record.comparison.check_draw()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"the metadata of {path} are damaged: {error!r}; save the preferences again"
        ) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return record


def _to_table(record: PreferenceRecord) -> pa.Table:
    comparison = record.comparison
    by_task: dict[str, list[Opinion]] = {}
    for opinion in record.opinions:
        by_task.setdefault(opinion.task_id, []).append(opinion)
    rows: list[dict[str, Any]] = []
    for question in comparison.questions:
        fields = dataclasses.asdict(question)
        opinions = by_task.get(question.task_id, [])
        if not opinions:
            rows.append(fields | {"rater": None, "aspect": None, "preference": None})
        rows += [
            fields
            | {
                "rater": opinion.rater,
                "aspect": opinion.aspect,
                "preference": opinion.preference,
            }
            for opinion in opinions
        ]
    about = {
        "source": record.source.value,
        "first": dataclasses.asdict(comparison.first),
        "second": dataclasses.asdict(comparison.second),
        "seed": comparison.seed,
        "most": comparison.most,
    }
    schema = PREFERENCE_SCHEMA.with_metadata(
        {_METADATA_KEY: json.dumps(about, ensure_ascii=False, sort_keys=True)}
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _parse(about: Mapping[str, Any], rows: list[dict[str, Any]]) -> PreferenceRecord:
    questions: dict[str, ComparedQuestion] = {}
    opinions = []
    for row in rows:
        question = ComparedQuestion(**{name: row[name] for name in _QUESTION_COLUMNS})
        if questions.setdefault(question.task_id, question) != question:
            raise DataError(f"the rows of '{question.task_id}' describe different questions")
        if row["rater"] is not None:
            if row["aspect"] not in ASPECTS:
                raise DataError(
                    f"'{question.task_id}' has an opinion on the aspect {row['aspect']!r}; "
                    f"expected one of {', '.join(ASPECTS)}"
                )
            opinions.append(
                Opinion(
                    task_id=question.task_id,
                    rater=row["rater"],
                    aspect=row["aspect"],
                    preference=row["preference"],
                )
            )
    comparison = SystemComparison(
        first=ComparedSystem(**about["first"]),
        second=ComparedSystem(**about["second"]),
        seed=int(about["seed"]),
        most=int(about["most"]),
        questions=tuple(questions.values()),
    )
    return PreferenceRecord(
        source=PreferenceSource(about["source"]), comparison=comparison, opinions=tuple(opinions)
    )
