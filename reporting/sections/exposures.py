"""Exposures: how often the answer to each question was trained, and the score by exposure.

A share of target-language data also decides how many different answers a training has shown in the
language, and how often. Scores at equal exposure separate the two.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow.parquet as pq

from core.io.reading import reading
from datamodules.batches.target_data import Exposures, load_exposures
from evaluation.answers.registry import rule_for
from evaluation.answers.rule import AnswerRule
from evaluation.statistics.intervals import mean_interval
from pipeline.store.records import StageRecord
from reporting.amounts import last_training
from reporting.claims.measures import deciding_column
from reporting.records import CellRecord, GridRecord
from reporting.sections.further_benchmarks import further_names
from reporting.series import View

ENOUGH = 8
"""Exposures from which an answer counts as well covered."""
GROUPS = ((0, 0), (1, 1), (2, 3), (4, 7), (ENOUGH, None))
"""Smallest and largest number of exposures of each group of questions."""
_CLOSED_TYPES = ("yes/no", "number")
"""Answer types with so few answers that every one of them is trained often."""
_COLUMNS = ("dataset", "benchmark", "answer_type", "language", "image_key", "answers")
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExposureGroup:
    """Score of the questions whose answer was trained a number of times."""

    score: str
    interval: str
    num_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExposureRow:
    """Exposures of the answers of one kind of questions in one cell."""

    cell: str
    num_answers: int
    quartiles: tuple[int, int, int, int, int]
    """Minimum, quartiles and maximum over the different answers."""
    num_few: int
    """Answers with fewer than `ENOUGH` exposures."""
    in_stage_1: str
    """Median over the answers in stage 1; empty without it."""
    in_texts: str
    """Median over the answers in text-only data of stage 2; empty without them."""
    groups: tuple[ExposureGroup, ...]
    """One per member of `GROUPS`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExposureTable:
    """Exposures of one kind of questions in all cells."""

    title: str
    benchmark: str
    """Name of the benchmark; empty for the main one."""
    group_names: tuple[str, ...]
    rows: tuple[ExposureRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    title: str
    benchmarks: tuple[str, ...]


_KINDS = (
    _Kind(title="Open questions without numbers and yes/no", benchmarks=("vqa", "da")),
    _Kind(title="Multiple choice", benchmarks=("mc",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Questions:
    """Questions of one kind in the target language."""

    references: list[str]
    """The most frequent reference answer of each question."""
    images: list[str]
    scores: np.ndarray


class ExposureCounter:
    """Looks up how often a reference answer was trained, by the answer rule of its language."""

    def __init__(self, counts: Mapping[str, int], rule: AnswerRule) -> None:
        self._counts, self._rule = counts, rule
        self._by_form: dict[str, set[str]] = {}
        for answer in counts:
            for form in rule.forms(rule.normalise(answer)):
                self._by_form.setdefault(form, set()).add(answer)

    def count(self, reference: str) -> int:
        """Return the number of trained turns whose answer equals the reference."""
        forms = self._rule.forms(self._rule.normalise(reference))
        answers = set[str]().union(*(self._by_form.get(form, ()) for form in forms))
        return sum(self._counts[answer] for answer in answers)


def exposure_tables(grid: GridRecord, view: View) -> list[ExposureTable]:
    """Return one table per benchmark and kind of questions; none if no answers were counted."""
    cells = [cell for cell in grid.cells if cell.evaluation is not None]
    counted = [(cell, found) for cell in cells if (found := _exposures(last_training(cell)))]
    tables = []
    for benchmark in ("", *further_names(grid)):
        for kind in _KINDS:
            rows = [
                row
                for cell, exposures in counted
                if (row := _row(cell, exposures, kind, grid, view, benchmark)) is not None
            ]
            if rows:
                tables.append(_kind_table(kind, benchmark, rows))
    return tables


def _kind_table(kind: _Kind, benchmark: str, rows: Sequence[ExposureRow]) -> ExposureTable:
    return ExposureTable(
        title=f"{kind.title}, {benchmark}" if benchmark else kind.title,
        benchmark=benchmark,
        group_names=tuple(_name_group(*group) for group in GROUPS),
        rows=tuple(rows),
    )


def group_of(count: int) -> int:
    """Return the index of the group of a number of exposures."""
    return next(at for at, (_, most) in enumerate(GROUPS) if most is None or count <= most)


def _name_group(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least}\N{EN DASH}{most}"


def _exposures(stage: StageRecord | None) -> Exposures | None:
    return None if stage is None else load_exposures(stage.folder / "result")


def _row(
    cell: CellRecord,
    exposures: Exposures,
    kind: _Kind,
    grid: GridRecord,
    view: View,
    benchmark: str,
) -> ExposureRow | None:
    column = deciding_column(grid.deciding_metric)
    questions = _read_questions(cell, kind, view.target, column, benchmark)
    if questions is None:
        return None
    rule = rule_for(exposures.language)
    count = cache(ExposureCounter(exposures.with_image, rule).count)
    answers = list(dict.fromkeys(map(rule.normalise, questions.references)))
    numbers = np.array([count(answer) for answer in answers])
    groups = np.array([group_of(count(reference)) for reference in questions.references])
    align = cell.stages.get("align")
    earlier = _exposures(align) if align is not last_training(cell) else None
    quartiles = np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1), method="lower").tolist()
    return ExposureRow(
        cell=cell.cell_id,
        num_answers=len(answers),
        quartiles=tuple(quartiles),
        num_few=int((numbers < ENOUGH).sum()),
        in_stage_1=_median(answers, None if earlier is None else earlier.with_image, rule),
        in_texts=_median(answers, exposures.without_image, rule),
        groups=tuple(_group(questions, groups == at) for at in range(len(GROUPS))),
    )


def _median(answers: Sequence[str], counts: Mapping[str, int] | None, rule: AnswerRule) -> str:
    if not counts:
        return ""
    counter = ExposureCounter(counts, rule)
    return f"{np.median([counter.count(answer) for answer in answers]):g}"


def _group(questions: _Questions, chosen: np.ndarray) -> ExposureGroup:
    if not chosen.any():
        return ExposureGroup(score="", interval="", num_questions=0)
    images = [questions.images[at] for at in np.flatnonzero(chosen)]
    found = mean_interval(questions.scores[chosen], images, seed=_SEED)
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f"{100 * found.low:.1f}\N{EN DASH}{100 * found.high:.1f}"
    return ExposureGroup(
        score=f"{100 * found.value:.1f}", interval=interval, num_questions=int(chosen.sum())
    )


def _read_questions(
    cell: CellRecord, kind: _Kind, language: str, open_column: str, benchmark: str
) -> _Questions | None:
    """Read the questions of a benchmark (empty: the main one); None if it has none of the kind."""
    evaluation = cell.evaluation
    if evaluation is None or not evaluation.predictions.is_file():
        return None
    column = open_column if kind.benchmarks != ("mc",) else "score"
    path = evaluation.predictions
    with reading(path, fix="delete the result folder to run the evaluate stage again"):
        table = pq.read_table(path, columns=[*_COLUMNS, *{column, "score"}]).to_pylist()
    rows = [
        row
        for row in table
        if row["dataset"] == (benchmark or table[0]["dataset"])
        and row["language"] == language
        and row["benchmark"] in kind.benchmarks
        and row["answer_type"] not in _CLOSED_TYPES
        and row["answers"]
    ]
    if not rows:
        return None
    scores = [row["score"] if row[column] is None else row[column] for row in rows]
    return _Questions(
        references=[Counter(row["answers"]).most_common(1)[0][0] for row in rows],
        images=[row["image_key"] for row in rows],
        scores=np.array(scores, dtype=np.float64),
    )


def exposure_sentences(tables: Iterable[ExposureTable]) -> list[str]:
    """State in which cells some answers of the main benchmark were rarely trained."""
    sentences = []
    for table in (table for table in tables if not table.benchmark):
        few = [row for row in table.rows if row.num_few]
        if few:
            worst = max(few, key=lambda row: row.num_few)
            sentences.append(
                f"{table.title}: {len(few)} of {len(table.rows)} cells trained some of the answers "
                f"fewer than {ENOUGH} times, {worst.cell} {worst.num_few} of "
                f"{worst.num_answers}. A comparison of their shares is also one of exposures."
            )
    return sentences
