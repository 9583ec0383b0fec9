"""Native questions: division by text, listed options, checks by a second speaker, and power."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import DataError
from data_prep import native_checks
from data_prep.native_split import question_with_options, split_questions
from data_prep.native_study import main
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source

_SOURCES = ("--source", "eu=data/culture/eu.csv", "en=data/culture/en.csv")


def _items(number: int) -> list[dict[str, object]]:
    return [
        {"question_id": f"q{at}", "question": {"eu": f"Zer {at // 4}?"},
         "choices": {"eu": ["a", "b", "c", "d"]}, "correct_choice": at % 4}
        for at in range(number)
    ]  # fmt: skip


def test_questions_with_the_same_text_are_on_one_side() -> None:
    test, train = split_questions(_items(24), 0.5, "eu")
    assert sorted([*test, *train]) == sorted(f"q{at}" for at in range(24))
    groups = [{int(name[1:]) // 4 for name in side} for side in (test, train)]
    assert not groups[0] & groups[1]
    assert len(test) == 12
    with pytest.raises(DataError, match="leaves one side empty"):
        split_questions(_items(4), 0.5, "eu")


def test_options_are_listed_as_in_the_questions_of_training() -> None:
    choices = ["taloa", "txakolina", "marmitakoa", "sagardoa"]
    asked = question_with_options("Zer da hau?", choices, "eu")
    assert asked == "Zer da hau: taloa, txakolina, marmitakoa ala sagardoa?"


def test_the_example_becomes_a_benchmark_and_parallel_training_items(tmp_path: Path) -> None:
    assert main([*_SOURCES, "--out", str(tmp_path)]) == 0
    shipped = Path("data/embedded")
    for name in ("culture_test", "culture_instruct_eu", "culture_instruct_en"):
        found = (tmp_path / f"{name}.manifest.json").read_text()
        assert json.loads(found) == json.loads((shipped / f"{name}.manifest.json").read_text())
    sources = [Source(tmp_path / f"culture_instruct_{lang}.manifest.json") for lang in ("eu", "en")]
    assert len(sources[0]) == len(sources[1]) > 0
    assert load_manifest(tmp_path / "culture_test.manifest.json").statistics["num_items"] == 32


def test_a_second_speaker_answers_without_the_key(tmp_path: Path) -> None:
    form = tmp_path / "form.csv"
    assert main([*_SOURCES, "--form", str(form)]) == 0
    with form.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert {row["answer"] for row in rows} == {""}
    assert "correct_choice" not in rows[0]


def test_disagreements_are_left_out_and_counted(tmp_path: Path) -> None:
    items, form = _items(4), tmp_path / "form.csv"
    lines = ["question_id,answer", "q0,a", "q1,b", "q2,c", "q3,a"]
    form.write_text("\n".join(lines) + "\n")
    output = io.StringIO()
    console = Console(file=output, width=200)
    assert native_checks.compare_answers(form, items, console) == {"q3"}
    assert "agrees on 3 of 4 questions (75.0%, kappa 0.67)" in output.getvalue()
    form.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="no answer to 'q3'"):
        native_checks.compare_answers(form, items, console)


def test_detectable_differences_follow_from_the_standard_error() -> None:
    # 2.4865 = z(0.95) + z(0.8); sd 0.51 (evaluation.statistics.trainings.power_assumptions)
    own, contrast = native_checks.detectable_differences(300)
    assert own == pytest.approx(2.4865 * 0.51 / 300**0.5, rel=1e-3)
    assert contrast == pytest.approx(2.4865 * 0.51 * (1 / 300 + 1 / 216) ** 0.5, rel=1e-3)
