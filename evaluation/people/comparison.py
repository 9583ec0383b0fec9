"""Comparisons of two systems: which replies are equal, and which questions were drawn at random.

The draw is part of the comparison, so that later steps can check that people judged a random sample
of the questions. Equal replies are ties by definition. They are never shown, but they are counted.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.errors import DataError
from core.io.files import sha256_file
from core.io.reading import read_json_file
from core.rng import named_rng
from evaluation.benchmarks.predictions import read_predictions
from evaluation.people.tasks import RESERVED, Task, TaskKind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSystem:
    """One of the two systems."""

    name: str
    predictions: str
    """Path of its predictions.parquet when the comparison was made."""
    sha256: str
    """Checksum of that file, by which the cell of a grid is found."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparedQuestion:
    """A question that both systems answered."""

    task_id: str
    dataset: str
    question_id: str
    language: str
    image_key: str
    is_identical: bool
    """Whether both replies are equal up to surrounding white space."""
    place: int | None
    """Position in the random order of the differing questions of its language; None for identical
    replies and for questions that were not drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SystemComparison:
    """Two systems, all questions that they answered, and the random draw."""

    first: ComparedSystem
    second: ComparedSystem
    seed: int
    most: int
    """Maximum number of differing questions that are drawn per language; 0 for all."""
    questions: tuple[ComparedQuestion, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the questions, sorted."""
        return tuple(sorted({question.language for question in self.questions}))

    def dump(self) -> str:
        """Return the comparison as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def load(text: str) -> "SystemComparison":
        """Parse a comparison from JSON.

        Raises:
            DataError: If the text was not written by `dump`.
        """
        try:
            raw = json.loads(text)
            questions = tuple(ComparedQuestion(**question) for question in raw.pop("questions"))
            first, second = (ComparedSystem(**raw.pop(name)) for name in ("first", "second"))
            return SystemComparison(first=first, second=second, questions=questions, **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"damaged comparison: {error!r}; create it again") from error

    def check_draw(self) -> None:
        """Check that the drawn questions are the ones that the seed draws.

        Raises:
            DataError: If a question was added, removed or moved by hand.
        """
        for language in self.languages:
            own = [question for question in self.questions if question.language == language]
            differing = [question.task_id for question in own if not question.is_identical]
            expected = draw_order(differing, language, most=self.most, seed=self.seed)
            placed = {q.place: q.task_id for q in own if q.place is not None}
            found = [placed.get(place, "nothing") for place in range(len(expected))]
            wrong = [i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]
            if wrong or len(placed) != len(expected):
                at = wrong[0] if wrong else len(expected)
                raise DataError(
                    f"the questions in '{language}' are not the random sample of seed {self.seed}: "
                    f"place {at} holds {placed.get(at, 'nothing')}, expected "
                    f"{expected[at] if wrong else 'nothing'}; draw them with "
                    "evaluation.people.run --pairs"
                )


def draw_order(task_ids: Sequence[str], language: str, *, most: int, seed: int) -> list[str]:
    """Return a random sample of the tasks of a language, in random order.

    Args:
        task_ids: Ids of all tasks of the language, in any order.
        language: The language, which has a random stream of its own.
        most: Maximum number of tasks; 0 for all.
        seed: Seed of the draw.
    """
    ordered = sorted(task_ids)
    permutation = named_rng(seed, "people", language).permutation(len(ordered))
    return [ordered[i] for i in (permutation[:most] if most else permutation)]


def compare_systems(
    paths: tuple[Path, Path],
    names: tuple[str, str],
    *,
    languages: Sequence[str],
    datasets: Sequence[str] = (),
    most: int = 0,
    seed: int = 0,
) -> tuple[SystemComparison, list[Task]]:
    """Compare the replies of two systems to the same questions.

    Args:
        paths: predictions.parquet of the first and of the second system.
        names: Names of the two systems.
        languages: Languages of the questions; the draw is separate for each of them. Empty for the
            target languages of the first system.
        datasets: Benchmarks of the questions, such as wildvision; empty for all.
        most: Maximum number of tasks per language, drawn at random from the questions with
            different replies; 0 for all.
        seed: Seed of the draw and of the order of the tasks.

    Returns:
        The comparison and the tasks of the drawn questions. There are none if all replies are
        equal.

    Raises:
        DataError: If the names are invalid, the number of tasks is negative, or the files contain
            different questions.
    """
    if names[0] == names[1] or {*names} & RESERVED or not all(names):
        raise DataError(
            f"the systems are called {' and '.join(names)}; use two different names other than "
            f"{', '.join(sorted(RESERVED))}"
        )
    if most < 0:
        raise DataError(f"--most is {most}; expected the number of questions, or 0 for all")
    tables = [read_predictions(path) for path in paths]
    questions: list[ComparedQuestion] = []
    tasks: list[tuple[int, Task]] = []
    for language in dict.fromkeys(languages or _target_languages(paths[0], tables[0])):
        replies = [_read_replies(table, language, datasets) for table in tables]
        if replies[0].keys() != replies[1].keys() or not replies[0]:
            raise DataError(
                f"{paths[0]} and {paths[1]} have {len(replies[0])} and {len(replies[1])} questions "
                f"in '{language}'{_listed(datasets)}, which differ or are none; compare cells "
                "that were evaluated on the same benchmarks"
            )
        differing = [key for key in replies[0] if _differ(replies[0][key], replies[1][key])]
        drawn = draw_order(differing, language, most=most, seed=seed)
        places = {key: place for place, key in enumerate(drawn)}
        for key, row in sorted(replies[0].items()):
            questions.append(_question(key, row, replies[1][key], places.get(key)))
        for key, place in places.items():
            one, other = replies[0][key]["output"], replies[1][key]["output"]
            contents = {names[0]: one, names[1]: other}
            tasks.append((place, _task(key, replies[0][key], contents)))
    systems = [
        ComparedSystem(name=name, predictions=str(path), sha256=sha256_file(path))
        for name, path in zip(names, paths, strict=True)
    ]
    comparison = SystemComparison(
        first=systems[0], second=systems[1], seed=seed, most=most, questions=tuple(questions)
    )
    tasks.sort(key=lambda placed: placed[0])
    return comparison, [task for _, task in tasks]


def _target_languages(path: Path, table: pa.Table) -> list[str]:
    """Return the target languages of an evaluation, whose description is beside its result.

    Raises:
        DataError: If the predictions lie elsewhere and have questions in several languages.
    """
    described = path.absolute().parent.parent / "stage.json"
    if described.is_file():
        stage = read_json_file(described, fix="run the evaluate stage again")
        base, *targets = stage["config"]["languages"]
        return list(targets or [base])
    found = sorted(set(table["language"].to_pylist()))
    if len(found) > 1:
        raise DataError(
            f"{path} has questions in {', '.join(found)}, and no stage.json tells which of them is "
            "the target language; choose with --language"
        )
    return found


def _listed(datasets: Sequence[str]) -> str:
    return f" of {', '.join(datasets)}" if datasets else ""


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["output"].strip() != other["output"].strip())


def _read_replies(
    table: pa.Table, language: str, datasets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    columns = ["dataset", "question_id", "language", "image_key", "prompt", "output"]
    return {
        f"{language}/{row['dataset']}/{row['question_id']}": row
        for row in table.select(columns).to_pylist()
        if row["language"] == language and (not datasets or row["dataset"] in datasets)
    }


def _question(
    key: str, row: Mapping[str, Any], other: Mapping[str, Any], place: int | None
) -> ComparedQuestion:
    return ComparedQuestion(
        task_id=key,
        dataset=row["dataset"],
        question_id=row["question_id"],
        language=row["language"],
        image_key=row["image_key"],
        is_identical=not _differ(row, other),
        place=place,
    )


def _task(key: str, row: Mapping[str, Any], content: dict[str, str]) -> Task:
    return Task(
        task_id=key,
        kind=TaskKind.COMPARE,
        language=row["language"],
        image_key=row["image_key"],
        question=row["prompt"],
        content=content,
    )
