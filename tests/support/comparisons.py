"""Comparisons of two systems and preferences about them, without files of predictions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation.people.comparison import (
    ComparedQuestion,
    ComparedSystem,
    SystemComparison,
    draw_order,
)
from evaluation.people.preferences import Opinion, PreferenceRecord, PreferenceSource
from evaluation.people.tasks import Task

FIRST = ComparedSystem(name="general", predictions="a.parquet", sha256="a" * 64)
SECOND = ComparedSystem(name="adapted", predictions="b.parquet", sha256="b" * 64)


def comparison_of(tasks: Sequence[Task]) -> SystemComparison:
    """Comparison whose differing questions are these tasks, in their order."""
    questions = tuple(
        ComparedQuestion(
            task_id=task.task_id,
            dataset=task.task_id.rpartition("/")[0],
            question_id=task.task_id.rpartition("/")[2],
            language=task.language,
            image_key=task.image_key,
            is_identical=False,
            place=place,
        )
        for place, task in enumerate(tasks)
    )
    names = list(tasks[0].content)
    systems = [
        dataclasses.replace(system, name=name)
        for system, name in zip((FIRST, SECOND), names, strict=True)
    ]
    return SystemComparison(
        first=systems[0], second=systems[1], seed=0, most=0, questions=questions
    )


def simulated_comparison(
    num_differing: int,
    num_identical: int = 0,
    *,
    language: str = "eu",
    most: int = 0,
    per_image: int = 1,
) -> SystemComparison:
    """Comparison with numbered questions, of which the last ones have identical replies."""
    ids = [f"{language}/x/{i}" for i in range(num_differing + num_identical)]
    drawn = draw_order(ids[:num_differing], language, most=most, seed=0)
    places = {task: place for place, task in enumerate(drawn)}
    questions = tuple(
        ComparedQuestion(
            task_id=task,
            dataset="x",
            question_id=str(i),
            language=language,
            image_key=f"p{i // per_image}",
            is_identical=i >= num_differing,
            place=places.get(task),
        )
        for i, task in enumerate(ids)
    )
    return SystemComparison(first=FIRST, second=SECOND, seed=0, most=most, questions=questions)


def record_of(
    comparison: SystemComparison,
    preferences: Sequence[float | None] | np.ndarray,
    *,
    source: PreferenceSource = PreferenceSource.PEOPLE,
    raters: Sequence[str] = ("ane",),
    aspect: str = "overall",
) -> PreferenceRecord:
    """Record in which rater i of several has judged question number i, i + len(raters), ....

    `preferences` are by place in the random order and may be fewer than the drawn questions.
    """
    placed = sorted((q.place, q.task_id) for q in comparison.questions if q.place is not None)
    opinions = tuple(
        Opinion(
            task_id=task,
            rater=raters[place % len(raters)],
            aspect=aspect,
            preference=None if value is None else float(value),
        )
        for (place, task), value in zip(placed, preferences, strict=False)
    )
    return PreferenceRecord(source=source, comparison=comparison, opinions=opinions)
