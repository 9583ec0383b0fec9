"""Published benchmarks in the hub's formats become shards that can be loaded and scored."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.config import load_config
from data_prep.import_benchmark import main
from data_prep.prepare.benchmark_recipe import BenchmarkRecipe
from data_prep.prepare.recipe_folders import BENCHMARK_RECIPES
from datamodules.shards.manifest import load_manifest
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import Benchmark, BenchmarkItem, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.metrics.baselines import majority_baseline
from evaluation.metrics.scorer import Scorer


def image_bytes(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def image(seed: int) -> dict[str, Any]:
    """Return an image in the format of `datasets`."""
    return {"bytes": image_bytes(seed), "path": f"{seed}.jpg"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def vqa_row(number: int, answer: str) -> dict[str, Any]:
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(10)]
    return {"question_id": number, "image": image(number // 2), "question": f" zer {number}? ",
            "answers": answers, "answer_type": "other", "question_type": "what is"}  # fmt: skip


def run(folder: Path, recipe: str, *sources: str, more: tuple[str, ...] = ()) -> int:
    return main(
        ["--recipe", recipe, "--name", "b", "--out", str(folder), "--source", *sources, *more]
    )


def test_vqav2_in_two_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english = write(tmp_path / "en.parquet", [vqa_row(i, f"dog {i}") for i in range(6)])
    basque = write(tmp_path / "eu.parquet", [vqa_row(i, f"txakur {i}") for i in (5, 0, 3, 2, 9)])
    assert run(tmp_path, "vqav2", f"en={english}", f"eu={basque}") == 0
    output = capsys.readouterr().out
    for line in ("4  questions", "2  eu: missing", "1  eu: not in en", "3 images"):
        assert line in output
    items = load_benchmark(tmp_path / "b.manifest.json")
    assert len(items) == 8
    found = {(item.question_id, item.language): item for item in items}
    assert found["3", "eu"].answers == ("txakur 3",) * 10
    assert found["3", "eu"].question == "zer 3?"
    assert found["3", "en"].image == image_bytes(1)
    assert found["2", "en"].image_key == found["3", "eu"].image_key, "one image, two questions"
    assert run(tmp_path, "vqav2", f"en={english}") == 2, "nothing is overwritten"
    assert run(tmp_path / "few", "vqav2", f"en={english}", more=("--limit", "3")) == 0
    assert len(load_benchmark(tmp_path / "few" / "b.manifest.json")) == 3


def test_a_okvqa_choices_are_parsed_from_text(tmp_path: Path) -> None:
    row = {"question_id": "q", "image": image(1), "question": "zer?", "correct_choice_idx": "2",
           "choices": "['bat', 'bi', 'hiru', 'lau']"}  # fmt: skip
    assert run(tmp_path, "a_okvqa", f"eu={write(tmp_path / 'a.parquet', [row])}") == 0
    (item,) = load_benchmark(tmp_path / "b.manifest.json")
    assert (item.benchmark, item.choices, item.correct_choice) == (
        Benchmark.MULTIPLE_CHOICE, ("bat", "bi", "hiru", "lau"), 2,
    )  # fmt: skip
    scorer = Scorer(YesNoParser(load_prompts(["eu"]).yes_no_words))
    assert scorer.score(item, "C").score == 1


def test_difficult_direct_answers_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question_id": str(i), "image": image(i), "question": "what?",
         "direct_answers": "['dog', 'dog', 'cat']", "difficult_direct_answer": i == 1}
        for i in range(3)
    ]  # fmt: skip
    assert run(tmp_path, "a_okvqa_direct", f"en={write(tmp_path / 'd.parquet', rows)}") == 0
    assert "1  en: difficult_direct_answer" in capsys.readouterr().out
    items = load_benchmark(tmp_path / "b.manifest.json")
    assert [item.answers for item in items] == [("dog", "dog", "cat")] * 2


def test_rows_without_ids_are_matched_by_number_and_jsonl_names_images(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(image_bytes(i, "PNG"))
    for language, yes in (("en", "yes"), ("eu", "bai")):
        rows = [
            {"image": f"{i}.png", "question": f"{language} {i}?", "answer": yes} for i in range(2)
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{language}.jsonl").write_text(text)
    sources = [f"{language}={tmp_path / language}.jsonl" for language in ("en", "eu")]
    assert run(tmp_path / "out", "pixmo_cap_qa", *sources) == 0
    items = load_benchmark(tmp_path / "out" / "b.manifest.json")
    asked = {(item.question_id, item.language, item.question, item.answers) for item in items}
    assert ("1", "eu", "eu 1?", ("bai",)) in asked
    row = {"image": "../../etc/passwd", "question": "x", "answer": "yes"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(row))
    assert run(tmp_path / "bad", "pixmo_cap_qa", f"en={tmp_path / 'bad.jsonl'}") == 2


def test_errors_name_the_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = vqa_row(1, "dog")
    cases = {
        "no such": (
            {k: v for k, v in good.items() if k != "answer_type"},
            "unknown column 'answer_type'",
        ),
        "broken": (good | {"image": {"bytes": b"no", "path": ""}}, "can't be decoded"),
        "empty": (good | {"answers": []}, "answers: the list is empty"),
    }
    for name, (row, message) in cases.items():
        place = write(tmp_path / f"{name}.parquet", [row])
        assert run(tmp_path / name, "vqav2", f"en={place}") == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert run(tmp_path / "x", "vqav3", "en=nothing.parquet") == 2
    assert "Did you mean 'vqav2'" in capsys.readouterr().err
    assert run(tmp_path / "x", "vqav2", "en=nothing.parquet") == 2
    assert run(tmp_path / "x", "vqav2", "en=hub:some-one/set:test") == 2
    assert "needs a revision" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "path", sorted(BENCHMARK_RECIPES.glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_names_a_supported_benchmark(path: Path) -> None:
    recipe = load_config(BenchmarkRecipe, path)
    assert recipe.benchmark in set(Benchmark)
    without_reference = recipe.benchmark == Benchmark.WILD
    assert recipe.columns.answers or recipe.columns.choices or without_reference


def test_the_example_culture_benchmark_can_be_imported_and_scored(tmp_path: Path) -> None:
    folder = Path("data/culture")
    sources = [f"{code}={folder / code}.csv" for code in ("en", "eu")]
    assert (
        main(["--recipe", "culture", "--name", "c", "--out", str(tmp_path), "--source", *sources])
        == 0
    )
    items = load_benchmark(tmp_path / "c.manifest.json", ["en", "eu"])
    by_id: dict[str, list[BenchmarkItem]] = {}
    for item in items:
        by_id.setdefault(item.question_id, []).append(item)
    assert len(by_id) == 64
    for pair in by_id.values():
        assert [item.language for item in pair] == ["en", "eu"]
        assert pair[0].correct_choice == pair[1].correct_choice
        assert all(len(set(item.choices)) == 4 for item in pair)
    scorer = Scorer(YesNoParser(load_prompts(["en", "eu"]).yes_no_words))
    baseline = majority_baseline(items, scorer)
    assert baseline.scores.mean() == 0.25  # no letter dominates
    assert len({item.question_type for item in items}) >= 6


def write_choices(folder: Path, name: str, rows: list[tuple[str, str, int]]) -> str:
    """Write a table in the format of the culture recipe, with one image per row."""
    lines = ["question_id,image,topic,question,choices,correct_choice"]
    for number, (question, choices, correct) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(image_bytes(number, "PNG"))
        lines.append(f"q{number:03d},{number}.png,food,{question},{choices},{correct}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"{name}={path}"


def test_importing_warns_about_predictable_choices_and_shuffling_removes_the_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"zer {n}?", f"a{n}|b{n}|c{n}|d{n}", n % 4) for n in range(48)]
    sources = [write_choices(tmp_path, code, rows) for code in ("eu", "en")]
    assert run(tmp_path / "one", "culture", *sources) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "warning: eu: 'letter by row number' answers 100% correctly (chance: 25%" in output
    assert run(tmp_path / "two", "culture", *sources, more=("--shuffle-choices",)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "warning" not in output
    items = load_benchmark(tmp_path / "two" / "b.manifest.json", ["eu", "en"])
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert (first.choices, first.correct_choice) == (second.choices, second.correct_choice)
        assert first.correct_choice is not None
        number = int(first.question_id[1:])
        assert first.choices[first.correct_choice] == f"{'abcd'[number % 4]}{number}"
    statistics = load_manifest(tmp_path / "one" / "b.manifest.json").statistics
    assert statistics["text_only_accuracy"]["en"]["letter by row number"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("zer?", "a|b|c", 0), "number of choices and correct_choice are"),
        (("zer?", "a|b|c|d", 1), "number of choices and correct_choice are"),
        (("zer?", "a|b|a|d", 0), "the choices 'a' and 'a' can't be told apart"),
    ],
)
def test_choices_that_do_not_correspond_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: tuple[str, str, int], message: str
) -> None:
    english = write_choices(tmp_path, "en", [("what?", "a|b|c|d", 0)])
    basque = write_choices(tmp_path, "eu", [row])
    assert run(tmp_path / "out", "culture", english, basque) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_ids_that_repeat_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [vqa_row(number, "dog") | {"question_id": number // 2} for number in range(4)]
    assert run(tmp_path, "vqav2", f"en={write(tmp_path / 'a.parquet', rows)}") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "row 1: the id '0' is also that of" in message
    assert not (tmp_path / "b.manifest.json").exists()


def smooth_image(seed: int, size: tuple[int, int], kind: str) -> dict[str, Any]:
    """Return an image without fine structure, as photographs are, in a size and encoding."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).resize(size).save(
        buffer, kind
    )
    return {"bytes": buffer.getvalue(), "path": ""}


def test_questions_about_different_images_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def source(name: str, size: tuple[int, int], kind: str, first: int = 0) -> str:
        rows = [
            vqa_row(n, "dog") | {"image": smooth_image(first + n, size, kind)} for n in range(4)
        ]
        return write(tmp_path / f"{name}.parquet", rows)

    english = f"en={source('en', (320, 240), 'JPEG')}"
    recoded = f"eu={source('eu', (160, 120), 'WEBP')}"
    shifted = f"eu={source('shifted', (320, 240), 'JPEG', first=1)}"
    assert run(tmp_path / "same", "vqav2", english, recoded) == 0
    capsys.readouterr()
    assert run(tmp_path / "other", "vqav2", english, shifted) == 2
    assert "question '0' has different images" in " ".join(capsys.readouterr().err.split())


def test_unusable_rows_are_left_out_within_the_budget_and_every_row_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [vqa_row(number, "dog") for number in range(10)]
    rows[3]["question"] = "<image> what?"
    rows[4]["answers"] = []
    place = f"en={write(tmp_path / 'a.parquet', rows)}"
    assert run(tmp_path, "vqav2", place, more=("--max-unusable", "0.1")) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "row 3, question: the text contains '<image>'" in message
    assert "2 of 10 rows can't be used" in message
    assert run(tmp_path, "vqav2", place, more=("--max-unusable", "0.2", "--limit", "5")) == 0
    counts = load_manifest(tmp_path / "b.manifest.json").provenance["left_out"]
    assert counts == {
        "questions": 5, "en: reserved token": 1, "en: empty list": 1, "beyond --limit": 3
    }  # fmt: skip
