"""Checks of native questions by a second speaker, and the power of their numbers."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from rich.console import Console
from rich.table import Table

from core.errors import DataError
from core.io.files import atomic_write_text
from core.io.reading import reading
from core.rng import named_rng
from data_prep.prepare.benchmark_join import ImportedBenchmark
from evaluation.statistics.trainings.power_assumptions import (
    INTRA_IMAGE_CORRELATION,
    SD_ITEM_DIFFERENCE,
)

_PLANNED = (50, 100, 200, 300, 500, 1000)
"""Numbers of native questions for which the power is printed."""
_TRANSLATED = 216
"""Multiple-choice questions of the embedded benchmark, with which native ones are contrasted."""
_Z = NormalDist().inv_cdf(0.95) + NormalDist().inv_cdf(0.8)
"""Of a one-sided test at the 5 % level with 80 % power."""


def write_form(path: Path, table: Path) -> None:
    """Write a table without answers in random order; a speaker fills the column `answer`."""
    with reading(table, fix="restore the file"), table.open(encoding="utf-8", newline="") as file:
        known = list(csv.DictReader(file))
    columns = ("question_id", "image", "question", "choices")
    rows = [[*columns, "answer"]]
    for at in named_rng(0, "form").permutation(len(known)):
        rows.append([*(known[at][name] for name in columns), ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def compare_answers(
    path: Path, items: Sequence[Mapping[str, Any]], console: Console
) -> frozenset[str]:
    """Compare a filled form with the answers, print the agreement, and return what differs.

    Raises:
        DataError: If a question is unknown or has no answer, or an answer is not an option.
    """
    known = {item["question_id"]: item for item in items}
    given: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            name, answer = row.get("question_id") or "", (row.get("answer") or "").strip()
            where = f"{path}, line {number}"
            if name not in known:
                raise DataError(f"{where}: unknown question '{name}'; use the form as written", "")
            options = {one for texts in known[name]["choices"].values() for one in texts}
            if answer not in options:
                raise DataError(f"{where}: '{answer}' is no option of '{name}'; copy one", "")
            given[name] = answer
    if missing := sorted(known.keys() - given.keys()):
        raise DataError(f"{path} has no answer to '{missing[0]}' and {len(missing) - 1} more", "")
    differs = {
        name
        for name, answer in given.items()
        if answer not in [t[known[name]["correct_choice"]] for t in known[name]["choices"].values()]
    }
    agreement = 1 - len(differs) / len(given)
    # Four options in balanced positions agree by chance in a quarter of the cases.
    chance = sum(1 / len(next(iter(known[n]["choices"].values()))) for n in given) / len(given)
    kappa = (agreement - chance) / (1 - chance)
    console.print(
        f"the second speaker agrees on {len(given) - len(differs)} of {len(given)} questions "
        f"({agreement:.1%}, kappa {kappa:.2f}); the others are left out",
        highlight=False,
    )
    return frozenset(differs)


def write_review(path: Path, imported: ImportedBenchmark, language: str) -> None:
    """Write the questions as tasks of the annotation page, with the other language as source."""
    lines = []
    for sample in imported.samples:
        for item in sample.content["items"]:
            texts = {
                code: f"{item['question'][code]}\n- " + "\n- ".join(item["choices"][code])
                for code in item["question"]
            }
            others = [text for code, text in texts.items() if code != language]
            task = {"id": item["question_id"], "language": language, "image_key": sample.key,
                    "source": "\n\n".join(others), "translation": texts[language]}  # fmt: skip
            lines.append(json.dumps(task, ensure_ascii=False))
    atomic_write_text(path, "\n".join(lines) + "\n")


def detectable_differences(num_native: int, *, items_per_image: float = 1.0) -> tuple[float, float]:
    """Return the smallest effects that are found with 80 % power, one-sided at the 5 % level.

    The first is a difference of two cells on native questions, the second the same less the
    difference on `_TRANSLATED` translated questions (difference in differences). They concern the
    trained models; the variance between trainings comes on top. Assumptions: see
    `evaluation.statistics.trainings.power_assumptions`.

    Args:
        num_native: Native questions.
        items_per_image: Mean number of native questions per image.
    """
    effect = 1 + (items_per_image - 1) * INTRA_IMAGE_CORRELATION
    variance = SD_ITEM_DIFFERENCE**2
    own = variance * effect / num_native
    return _Z * math.sqrt(own), _Z * math.sqrt(own + variance / _TRANSLATED)


def print_power(console: Console) -> None:
    """Print the smallest effects that several numbers of questions can show."""
    table = Table(title=f"Detectable with 80 % power (one-sided, 5 %); contrast: {_TRANSLATED} "
                        "translated questions")  # fmt: skip
    for title in ("native questions", "difference, points", "difference in differences, points"):
        table.add_column(title, justify="right")
    for number in _PLANNED:
        values = detectable_differences(number)
        table.add_row(f"{number:,}", *(f"{100 * value:.1f}" for value in values))
    console.print(table)
