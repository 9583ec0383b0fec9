"""Counts of what a first trained cell answers in a new language, from its predictions."""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.io.reading import read_json_file, reading
from evaluation.benchmarks.predictions import PREDICTIONS_FILE, read_predictions
from evaluation.metrics.reply_language import REPLACEMENT_CHARACTER

EXPERIMENT = "first_cell"
"""The experiment that the command trains (`experiments/grids`)."""
_MIN_SHARE = 0.05
"""Least share of the letters of the accepted answers with which a script is that of the language:
names of brands in Latin letters are not."""
_PERCENT = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TypeScore:
    """Accuracy of the questions of one type, in percent."""

    name: str
    num_questions: int
    accuracy: float
    chance: float | None
    """Expected score of a random guess among the offered answers; None for open questions."""
    majority: float
    """Score of the best constant reply."""

    def describe(self) -> str:
        """Return the score in one line."""
        chance = "" if self.chance is None else f"chance {self.chance:.1f} %, "
        return (
            f"{self.name}: {self.accuracy:.1f} % of {self.num_questions} questions are correct "
            f"({chance}majority answer {self.majority:.1f} %)"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FirstReplies:
    """The replies of a cell to the questions of the main benchmark in one language.

    Replies that had to be one of the options are in the language whatever the model has learned, so
    only the others count for script and length.
    """

    scripts: tuple[str, ...]
    """Scripts of the accepted answers, the most frequent first."""
    num_replies: int
    num_letters: int
    """Letters of the replies; each undecodable byte (U+FFFD) counts as a letter of no script."""
    num_own_letters: int
    """Those that belong to `scripts`."""
    num_without_letters: int
    """Replies without a letter: digits, or nothing."""
    num_truncated: int
    """Replies that reached the limit of tokens."""
    num_different: int
    """Different replies."""
    most_frequent: str
    """The most frequent reply."""
    num_most_frequent: int
    types: tuple[TypeScore, ...]

    @property
    def script_share(self) -> float | None:
        """Percentage of the letters that belong to the scripts; None if there are no letters."""
        if not self.num_letters:
            return None
        return _PERCENT * self.num_own_letters / self.num_letters

    def describe(self) -> list[str]:
        """Return the measurements, one line each."""
        script = ", ".join(self.scripts)
        share = "none, because they have no letters"
        if self.script_share is not None:
            share = f"{self.script_share:.1f} % of {self.num_letters} letters"
        empty = f"; {self.num_without_letters} replies have no letter"
        truncated = _PERCENT * self.num_truncated / max(1, self.num_replies)
        return [
            f"replies in the script of the answers ({script}): {share}"
            + (empty if self.num_without_letters else ""),
            f"truncated replies: {self.num_truncated} of {self.num_replies} ({truncated:.1f} %)",
            f"different replies: {self.num_different}; the most frequent, '{self.most_frequent}', "
            f"is {_PERCENT * self.num_most_frequent / max(1, self.num_replies):.1f} % of all",
            *(one.describe() for one in self.types),
        ]


def find_predictions(root: Path, grid: str) -> Path:
    """Return the predictions of the only cell of a grid.

    Args:
        root: Output folder of all runs.
        grid: Name of the grid's folder.

    Raises:
        DataError: If the grid was not run or its description is damaged.
    """
    path, fix = root / "grids" / grid / "grid.json", f"run --exp {EXPERIMENT} again"
    content = read_json_file(path, fix=fix)
    with reading(path, fix=fix):
        (cell,) = content["cells"]
        address = str(cell["stages"]["evaluate"])
    return root / "store" / "evaluate" / address / "result" / PREDICTIONS_FILE


def measure_replies(path: Path, code: str) -> FirstReplies:
    """Count letters, truncated replies and correct answers in predictions.

    Args:
        path: Predictions of an evaluation.
        code: Language of the questions.

    Raises:
        DataError: If the file is missing or has other columns.
    """
    rows = read_predictions(path).to_pylist()
    main = [r for r in rows if r["language"] == code and r["dataset"] == rows[0]["dataset"]]
    written = [row for row in main if row["is_in_language"] is not None]
    scripts = _scripts_of(answer for row in main for answer in row["answers"])
    counts = [count_scripts(row["output"]) for row in written]
    total = sum(counts, Counter[str]())
    replies = Counter(str(row["output"]).strip() for row in written)
    [(most_frequent, num_most_frequent)] = replies.most_common(1) or [("", 0)]
    return FirstReplies(
        scripts=scripts,
        num_replies=len(written),
        num_letters=total.total(),
        num_own_letters=sum(total[script] for script in scripts),
        num_without_letters=sum(not one for one in counts),
        num_truncated=sum(row["is_truncated"] for row in written),
        num_different=len(replies),
        most_frequent=most_frequent,
        num_most_frequent=num_most_frequent,
        types=_score_types(main),
    )


def count_scripts(text: str) -> Counter[str]:
    """Return script -> number of its letters; undecodable bytes are letters of no script ("").

    The script is the first word of a letter's Unicode name, as in GEORGIAN LETTER AN.
    """
    return Counter(
        "" if letter == REPLACEMENT_CHARACTER else unicodedata.name(letter, "").split(" ")[0]
        for letter in text
        if letter.isalpha() or letter == REPLACEMENT_CHARACTER
    )


def _scripts_of(answers: Iterable[str]) -> tuple[str, ...]:
    counts = sum(map(count_scripts, answers), Counter[str]())
    least = _MIN_SHARE * counts.total()
    return tuple(script for script, number in counts.most_common() if number >= least)


def _score_types(rows: Sequence[Mapping[str, Any]]) -> tuple[TypeScore, ...]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['benchmark']} {row['question_type']}", []).append(row)
    return tuple(_score_type(name, groups[name]) for name in sorted(groups))


def _score_type(name: str, rows: Sequence[Mapping[str, Any]]) -> TypeScore:
    def mean(column: str) -> float:
        return _PERCENT * float(sum(row[column] for row in rows)) / len(rows)

    has_chance = all(row["chance_score"] is not None for row in rows)
    return TypeScore(
        name=name,
        num_questions=len(rows),
        accuracy=mean("score"),
        chance=mean("chance_score") if has_chance else None,
        majority=mean("majority_score"),
    )
