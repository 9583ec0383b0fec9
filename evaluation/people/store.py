"""Annotation database: tasks and judgements in a SQLite file that annotators share."""

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.errors import ConfigError, DataError
from core.rng import named_rng
from core.text import clean_text
from evaluation.people.comparison import SystemComparison
from evaluation.people.tasks import Task, TaskKind

_FORMAT = 2
_SCHEMA = """
CREATE TABLE about (
    format INTEGER NOT NULL, kind TEXT NOT NULL, overlap INTEGER NOT NULL,
    comparison TEXT NOT NULL);
CREATE TABLE tasks (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
CREATE TABLE judgements (
    task TEXT NOT NULL REFERENCES tasks (id), annotator TEXT NOT NULL, answers TEXT NOT NULL,
    time REAL NOT NULL, PRIMARY KEY (task, annotator));
"""
TIE, SKIP = "tie", "skip"
JUDGED_ASPECTS = {
    TaskKind.COMPARE: ("content", "language", "overall"),
    TaskKind.VALIDATE: ("verdict",),
}
FIX = "fix"
VERDICTS = ("accept", FIX, "reject", SKIP)
MAX_NAME, MAX_TEXT = 60, 4000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Answers of one annotator to one task."""

    task_id: str
    annotator: str
    answers: dict[str, str]
    """For COMPARE, the name of a system, "tie" or "skip" for content, language and overall. For
    VALIDATE, the verdict, and the corrected text if the verdict is "fix"."""


class AnnotationStore:
    """Annotation database.

    All annotators judge the tasks of the overlap; every other task goes to one annotator.
    """

    def __init__(self, path: Path) -> None:
        """Open a database that `create` has written.

        Raises:
            ConfigError: If the file does not exist or is not an annotation database.
        """
        if not path.is_file():
            raise ConfigError(
                f"annotation database {path} does not exist; create it with --pairs or --items"
            )
        self.path = path
        try:
            with self._connect() as connection:
                (row,) = connection.execute("SELECT * FROM about").fetchall()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ConfigError(f"{path} is not an annotation database: {error}") from error
        if row[0] != _FORMAT:
            raise ConfigError(
                f"{path} has format {row[0]}, expected {_FORMAT}; create the database again"
            )
        self.kind, self.overlap = TaskKind(row[1]), int(row[2])
        self._comparison = SystemComparison.load(row[3]) if row[3] else None
        self.tasks = self._load_tasks()
        self._by_id = {task.task_id: task for task in self.tasks}

    @property
    def comparison(self) -> SystemComparison:
        """The compared systems and all their questions.

        Raises:
            DataError: If the tasks are not comparisons.
        """
        if self._comparison is None:
            raise DataError(f"{self.path} has tasks of kind {self.kind}, not comparisons")
        return self._comparison

    @staticmethod
    def create(
        path: Path,
        tasks: Sequence[Task],
        *,
        overlap: int,
        comparison: SystemComparison | None = None,
    ) -> "AnnotationStore":
        """Create a database.

        Args:
            path: Path of the new file.
            tasks: Tasks of one kind.
            overlap: Number of tasks, from the first on, that all annotators judge. Every other task
                goes to one annotator.
            comparison: The comparison that drew the tasks; only for tasks of kind COMPARE.

        Raises:
            ConfigError: If the file exists, the tasks are not of one kind, or comparisons lack the
                description of their systems.
        """
        if path.exists():
            raise ConfigError(f"{path} exists and may contain judgements; choose another file")
        kinds = {task.kind for task in tasks}
        if len(kinds) != 1:
            raise ConfigError(
                f"got tasks of kinds {sorted(kinds)}; a database has tasks of one kind"
            )
        if (kinds == {TaskKind.COMPARE}) != (comparison is not None):
            raise ConfigError(
                "comparisons need the description of their systems, other tasks have none; create "
                "comparisons with --pairs"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(_SCHEMA)
            described = "" if comparison is None else comparison.dump()
            about = (_FORMAT, next(iter(kinds)).value, min(overlap, len(tasks)), described)
            connection.execute("INSERT INTO about VALUES (?, ?, ?, ?)", about)
            rows = [(place, task.task_id, task.dump()) for place, task in enumerate(tasks)]
            connection.executemany("INSERT INTO tasks VALUES (?, ?, ?)", rows)
        return AnnotationStore(path)

    def next_task(self, annotator: str) -> Task | None:
        """Return the annotator's next task: first the overlap, then tasks without a judgement."""
        with self._connect() as connection:
            rows = connection.execute("SELECT task, annotator FROM judgements").fetchall()
        own = {task for task, name in rows if name == annotator}
        taken = {task for task, _ in rows}
        for place, task in enumerate(self.tasks):
            is_shared = place < self.overlap
            if task.task_id not in own and (is_shared or task.task_id not in taken):
                return task
        return None

    def sides(self, task: Task, annotator: str) -> tuple[str, str]:
        """Return the left and right system of a comparison, randomised per annotator and task."""
        names = sorted(task.content)
        rng = named_rng(0, "people", "sides", task.task_id, annotator)
        left, right = names if rng.random() < 0.5 else names[::-1]  # noqa: PLR2004 - a fair coin
        return left, right

    def reveal(self, task: Task, annotator: str, answers: Mapping[str, str]) -> dict[str, str]:
        """Return the answers of an annotator with left and right replaced by the systems.

        Raises:
            DataError: If an answer is the name of a system, which annotators must not know.
        """
        if task.kind is not TaskKind.COMPARE:
            return dict(answers)
        if revealed := sorted(set(answers.values()) & set(task.content)):
            raise DataError(
                f"'{revealed[0]}' is the name of a system, which is hidden; answer left or right",
                "answers",
            )
        sides = dict(zip(("left", "right"), self.sides(task, annotator), strict=True))
        return {name: sides.get(answer, answer) for name, answer in answers.items()}

    def judge(self, judgement: Judgement) -> None:
        """Store a judgement, which replaces an earlier one by the same annotator on the same task.

        Raises:
            DataError: If the task is unknown, or the answers do not match it.
        """
        self.check(judgement)
        row = (
            judgement.task_id,
            judgement.annotator,
            json.dumps(judgement.answers, ensure_ascii=False, sort_keys=True),
            time.time(),
        )
        with self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?)", row)

    def check(self, judgement: Judgement) -> None:
        """Validate a judgement without storing it.

        Raises:
            DataError: If the task is unknown, or the answers do not match it.
        """
        check_name(judgement.annotator)
        _check_answers(self.task(judgement.task_id), judgement.answers)

    def check_spelling(self, name: str) -> None:
        """Reject a name that differs from that of an annotator in upper and lower case alone.

        Raises:
            DataError: If it does, since one person would become two annotators.
        """
        check_name(name)
        with self._connect() as connection:
            rows = connection.execute("SELECT DISTINCT annotator FROM judgements").fetchall()
        known = {str(row[0]) for row in rows}
        alike = sorted(one for one in known if one.casefold() == name.casefold())
        if alike and name not in known:
            raise DataError(
                f"'{alike[0]}' has judged tasks already; write the name like this to continue, or "
                "choose another one",
                "name",
            )

    def undo(self, annotator: str) -> str | None:
        """Delete the latest judgement of an annotator and return the id of its task, if any."""
        with self._connect() as connection:
            row = connection.execute(
                "SELECT task FROM judgements WHERE annotator = ? ORDER BY time DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "DELETE FROM judgements WHERE annotator = ? AND task = ?", (annotator, row[0])
            )
        return str(row[0])

    def judgements(self) -> list[Judgement]:
        """Return all judgements, ordered by task and annotator."""
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT task, annotator, answers FROM judgements JOIN tasks ON tasks.id = task "
                "ORDER BY place, annotator"
            ).fetchall()
        return [
            Judgement(task_id=task, annotator=name, answers=json.loads(answers))
            for task, name, answers in rows
        ]

    def progress(self, annotator: str) -> tuple[int, int]:
        """Return the number of an annotator's judgements and of the tasks that remain for them."""
        with self._connect() as connection:
            rows = connection.execute("SELECT task, annotator FROM judgements").fetchall()
        own = {task for task, name in rows if name == annotator}
        taken = {task for task, _ in rows}
        shared = {task.task_id for task in self.tasks[: self.overlap]}
        rest = {task.task_id for task in self.tasks[self.overlap :]}
        return len(own), len(shared - own) + len(rest - taken)

    def task(self, task_id: str) -> Task:
        """Return a task by its id.

        Raises:
            DataError: If the task does not exist.
        """
        if task_id not in self._by_id:
            raise DataError(f"task '{task_id}' does not exist in {self.path.name}", "unknown task")
        return self._by_id[task_id]

    def _load_tasks(self) -> list[Task]:
        with self._connect() as connection:
            rows = connection.execute("SELECT content FROM tasks ORDER BY place").fetchall()
        return [Task.load(content) for (content,) in rows]

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            yield connection


def check_name(name: str) -> None:
    """Validate the name of an annotator.

    Raises:
        DataError: If the name is empty, too long or contains control characters.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise DataError(
            f"the annotator name is {name!r}; expected 1 to {MAX_NAME} printable characters", "name"
        )


def _check_answers(task: Task, answers: dict[str, str]) -> None:
    if task.kind is TaskKind.COMPARE:
        allowed = {*task.content, TIE, SKIP}
        expected = set(JUDGED_ASPECTS[task.kind])
    else:
        allowed, expected = set(VERDICTS), {"verdict"}
        if answers.get("verdict") == FIX:
            text = clean_text(answers.get("text", ""))
            if not text.strip() or len(text) > MAX_TEXT:
                raise DataError(
                    f"a fix needs a text of 1 to {MAX_TEXT} characters, got {len(text)}", "text"
                )
            if text.strip() == clean_text(task.content.get("translation", "")).strip():
                raise DataError(
                    "the text of the fix is that of the translation; change it, or accept it",
                    "text",
                )
            expected |= {"text"}
    if set(answers) != expected:
        raise DataError(f"expected answers to {sorted(expected)}, got {sorted(answers)}", "answers")
    for name, answer in answers.items():
        if name != "text" and answer not in allowed:
            # The allowed answers are not listed, because they include the hidden system names.
            raise DataError(f"the answer to '{name}' can't be {answer!r}", "answers")
