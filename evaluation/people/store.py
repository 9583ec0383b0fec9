"""Tasks and judgements in one SQLite file: several annotators at once, nothing lost."""

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.errors import ConfigError, DataError
from core.rng import named_rng
from evaluation.people.tasks import Task, TaskKind

_FORMAT = 1
_SCHEMA = """
CREATE TABLE about (format INTEGER NOT NULL, kind TEXT NOT NULL, overlap INTEGER NOT NULL);
CREATE TABLE tasks (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
CREATE TABLE judgements (
    task TEXT NOT NULL REFERENCES tasks (id), annotator TEXT NOT NULL, answers TEXT NOT NULL,
    time REAL NOT NULL, PRIMARY KEY (task, annotator));
"""
TIE, SKIP = "tie", "skip"
QUESTIONS = {
    TaskKind.COMPARE: ("content", "language", "overall"),
    TaskKind.VALIDATE: ("verdict",),
}
VERDICTS = ("accept", "fix", "reject", SKIP)
MAX_NAME, MAX_TEXT = 60, 4000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one person said about one task."""

    task_id: str
    annotator: str
    answers: dict[str, str]
    """COMPARE: content, language, overall -> a system's name, tie or skip. VALIDATE: verdict, and
    for a fix the text."""


class PeopleStore:
    """The file. Every annotator sees the overlap set; the rest is dealt out, each task once."""

    def __init__(self, path: Path) -> None:
        """Open a file that `create` made.

        Raises:
            ConfigError: no such file, or not one of these.
        """
        if not path.is_file():
            raise ConfigError(f"no annotation file {path}; make one with --pairs or --items")
        self.path = path
        try:
            with self._connect() as connection:
                (row,) = connection.execute("SELECT format, kind, overlap FROM about").fetchall()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ConfigError(f"{path} is no annotation file: {error}") from error
        if row[0] != _FORMAT:
            raise ConfigError(f"{path} has format {row[0]}, this program knows {_FORMAT}")
        self.kind, self.overlap = TaskKind(row[1]), int(row[2])
        self.tasks = self._load_tasks()
        self._by_id = {task.task_id: task for task in self.tasks}

    @staticmethod
    def create(path: Path, tasks: Sequence[Task], *, overlap: int) -> "PeopleStore":
        """Make a file.

        Args:
            path: new file.
            tasks: of one kind.
            overlap: so many of the first are for every annotator; the rest for one each.

        Raises:
            ConfigError: the file exists, or tasks of two kinds.
        """
        if path.exists():
            raise ConfigError(f"{path} exists; it may hold judgements. Name another file")
        kinds = {task.kind for task in tasks}
        if len(kinds) != 1:
            raise ConfigError(f"tasks of the kinds {sorted(kinds)}; one file holds one kind")
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(_SCHEMA)
            about = (_FORMAT, next(iter(kinds)).value, min(overlap, len(tasks)))
            connection.execute("INSERT INTO about VALUES (?, ?, ?)", about)
            rows = [(place, task.task_id, task.dump()) for place, task in enumerate(tasks)]
            connection.executemany("INSERT INTO tasks VALUES (?, ?, ?)", rows)
        return PeopleStore(path)

    def next_task(self, annotator: str) -> Task | None:
        """What this person should do now: the overlap set, then what nobody has done."""
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
        """Left and right system of a comparison, drawn anew for each person and task."""
        names = sorted(task.content)
        rng = named_rng(0, "people", "sides", task.task_id, annotator)
        left, right = names if rng.random() < 0.5 else names[::-1]  # noqa: PLR2004 - a coin
        return left, right

    def judge(self, judgement: Judgement) -> None:
        """Keep a judgement; a second one of the same person on the same task replaces the first.

        Raises:
            DataError: an unknown task, or answers that don't fit it.
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
        """Refuse what `judge` would refuse.

        Raises:
            DataError: as `judge`.
        """
        check_name(judgement.annotator)
        _check_answers(self.task(judgement.task_id), judgement.answers)

    def undo(self, annotator: str) -> str | None:
        """Take back this person's newest judgement; returns its task."""
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
        """All, in the order of tasks, then of names."""
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
        """Judgements of this person, and tasks that are still open for them."""
        with self._connect() as connection:
            rows = connection.execute("SELECT task, annotator FROM judgements").fetchall()
        own = {task for task, name in rows if name == annotator}
        taken = {task for task, _ in rows}
        shared = {task.task_id for task in self.tasks[: self.overlap]}
        rest = {task.task_id for task in self.tasks[self.overlap :]}
        return len(own), len(shared - own) + len(rest - taken)

    def task(self, task_id: str) -> Task:
        """A task by its id.

        Raises:
            DataError: no such task.
        """
        if task_id not in self._by_id:
            raise DataError(f"no task '{task_id}'", "unknown task")
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
    """Refuse names that a table couldn't show.

    Raises:
        DataError: empty, long or with control characters.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise DataError(f"a name has 1 to {MAX_NAME} printable characters, got {name!r}", "name")


def _check_answers(task: Task, answers: dict[str, str]) -> None:
    if task.kind is TaskKind.COMPARE:
        allowed = {*task.content, TIE, SKIP}
        wanted = set(QUESTIONS[task.kind])
    else:
        allowed, wanted = set(VERDICTS), {"verdict"}
        if answers.get("verdict") == "fix":
            text = answers.get("text", "")
            if not text.strip() or len(text) > MAX_TEXT:
                raise DataError(f"a fix needs a text of 1 to {MAX_TEXT} characters", "text")
            wanted |= {"text"}
    if set(answers) != wanted:
        raise DataError(f"expected answers to {sorted(wanted)}, got {sorted(answers)}", "answers")
    for name, answer in answers.items():
        if name != "text" and answer not in allowed:
            raise DataError(f"'{name}' can't be {answer!r}", "answers")
