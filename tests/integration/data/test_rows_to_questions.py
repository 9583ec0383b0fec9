"""Rows of a benchmark are conserved: each is refused with its reason, or asked once per language.

Tables of any mixture of usable and faulty rows go through the import, the plan of a grid and an
evaluation, as a user would run them.
"""

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep import import_benchmark
from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import load_benchmarks
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.runner import EvaluationOptions, evaluate
from experiments.cli import request_of
from experiments.run import build_parser
from experiments.run_steps.planning import make_plan
from pipeline.stages.evaluate import EvaluateStage
from tests.support import small_world as worlds

LANGUAGES = ("en", "eu")
ANSWERS: dict[str, dict[str, Any]] = {
    "vqa": {"en": ["dog"] * 10, "eu": ["txakurra"] * 10},
    "da": {"en": {"answer": ["dog", "a dog"]}, "eu": "['txakurra', 'txakur bat']"},
    "open": {"en": ["It is a dog."], "eu": "Txakur bat da."},
    "capqa": {"en": ["yes"], "eu": ["Bai"]},
}
CHOICES = {"en": ["dog", "cat", "3"], "eu": ["txakurra", "katua", "3"]}
CORRECT = (1, 1.0, "1", "B")
"""Ways to write the index of the second choice, besides its text."""
FAULTS: dict[str, dict[str, Any]] = {
    "question is null": {"question": None},
    "question is NaN": {"question": math.nan},
    "question is empty": {"question": " \u200b"},
    "question has a placeholder": {"question": "<image> Zer da?"},
    "question is half a character": {"question": "Zer da \ud83d?"},
    "answers are null": {"answers": None},
    "answers are empty": {"answers": []},
    "an answer is NaN": {"answers": ["bai", math.nan]},
    "answers without commas": {"answers": "['bai' 'ez']"},
    "choices are equal": {"choices": ["katua", "Katua.", "3"]},
    "one choice": {"choices": ["katua"]},
    "no such choice": {"correct_choice": 3},
    "another correct choice": {"correct_choice": 0},
    "another number of choices": {"choices": ["katua", "behia", "zaldia", "3"]},
    "image is damaged": {"image": "broken.png"},
    "image is another": {"image": "other.png"},
}
GONE = "the row is missing"


def _usable_faults(kind: str) -> list[str]:
    columns = {
        "question",
        "image",
        *(("choices", "correct_choice") if kind == "mc" else ("answers",)),
    }
    return [GONE, *(name for name, change in FAULTS.items() if change.keys() <= columns)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[str | None]]:
    """Draw a kind of benchmark and the fault of each question; None for a usable one."""
    kind = draw(st.sampled_from(["mc", *ANSWERS]))
    fault = st.none() | st.sampled_from(_usable_faults(kind))
    return kind, draw(st.lists(fault, min_size=1, max_size=7))


class Recorder:
    """Answers every question, and remembers all of them."""

    def __init__(self) -> None:
        self.asked: list[VisualQuestion] = []

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        self.asked += questions
        return [ModelReply(text="bai", num_tokens=1, is_truncated=False) for _ in questions]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = worlds.build_world(tmp_path_factory.mktemp("world"))
        patch.chdir(folder)
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        for seed, name in enumerate(("other.png", *(f"{n}.png" for n in range(7)))):
            _write_image(folder / name, seed)
        yield folder


def _write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(path)


def _write_tables(world: Path, kind: str, faults: Sequence[str | None]) -> int:
    """Write a recipe and one table per language; the faults are in the second one."""
    rows: dict[str, list[dict[str, Any]]] = {language: [] for language in LANGUAGES}
    for number, fault in enumerate(faults):
        for language in LANGUAGES:
            row = {"id": number, "image": f"{number}.png", "question": f"Zer da {number}?"}
            if kind == "mc":
                row |= {"choices": CHOICES[language], "correct_choice": CORRECT[number % 4]}
            else:
                row |= {"answers": ANSWERS[kind][language]}
            if fault is not None and language == LANGUAGES[1]:
                row |= FAULTS.get(fault, {})
            if fault != GONE or language == LANGUAGES[0]:
                rows[language].append(row)
    for language, table in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in table)
        (world / f"{language}.jsonl").write_text(text)
    is_choice = kind == "mc"
    answers = (
        "choices: choices, correct_choice: correct_choice" if is_choice else "answers: answers"
    )
    (world / "recipe.yaml").write_text(
        f"benchmark: {kind}\nlicence: test\nanswer_type: other\n"
        f"columns: {{question_id: id, image: image, question: question, {answers}}}\n"
    )
    return sum(map(len, rows.values()))


def _import(name: str, *more: str) -> tuple[int, Counter[str], str]:
    """Import the tables; return the exit code, the printed counts and all output."""
    output = io.StringIO()
    sources = ("--source", *(f"{language}={language}.jsonl" for language in LANGUAGES))
    words = ["--recipe", "recipe.yaml", "--name", name, "--out", "data", *sources, *more]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = import_benchmark.main(words)
    counts: Counter[str] = Counter()
    for line in output.getvalue().splitlines():
        number, _, reason = line.strip().partition("  ")
        if number.isdecimal():
            counts[reason] = int(number)
    return code, counts, " ".join(output.getvalue().split())


@pytest.mark.slow
@given(tables())
@settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_every_row_is_refused_or_asked_once(
    world: Path, drawn: tuple[str, list[str | None]]
) -> None:
    kind, faults = drawn
    num_rows = _write_tables(world, kind, faults)
    for path in (world / "data").glob("imported*"):
        path.unlink()
    accepted = [str(number) for number, fault in enumerate(faults) if fault is None]

    refused = [fault for fault in faults if fault not in (None, GONE)]
    code, _, output = _import("imported_strict")
    if refused or not accepted:
        assert code == 2, output
        assert not refused or "row" in output, "the message names the row"

    code, counts, output = _import("imported", "--max-unusable", "1")
    if not accepted:
        assert code == 2
        assert "no question exists in all of en, eu" in output or "no usable rows" in output
        return
    assert code == 0, output
    assert counts.pop("questions") == len(accepted)
    assert num_rows == counts.total() + len(accepted) * len(LANGUAGES), "rows are conserved"

    arguments = [
        *worlds.grid_arguments("results"), "--set", "data.benchmarks=[imported]",
        "evaluate.prompt_style=instructed", "evaluate.max_new_tokens=32",
    ]  # fmt: skip
    plan = make_plan(request_of(build_parser().parse_args(arguments)))
    (stage,) = (n.stage for n in plan.graph.nodes.values() if isinstance(n.stage, EvaluateStage))
    items = load_benchmarks(map(Path, stage.benchmarks), languages=stage.languages)
    recorder = Recorder()
    options = EvaluationOptions.from_config(stage.settings, blind=False)
    rows = evaluate(recorder, items, options).predictions
    found = Counter(zip(rows["question_id"].to_pylist(), rows["language"].to_pylist(), strict=True))
    assert found == Counter((key, language) for key in accepted for language in LANGUAGES)
    book = options.load_prompts(LANGUAGES)
    assert Counter(recorder.asked) == Counter({book.question(item): 1 for item in items})
