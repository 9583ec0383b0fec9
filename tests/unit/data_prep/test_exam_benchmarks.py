"""Exams, texts in images and captions: files of the published schema become scored evaluations.

The contents are synthetic; the columns, file names and identifiers are those of the data sets.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep.import_benchmark import main
from evaluation.benchmarks.prompting import load_prompts
from tests.support.published_files import embedded, run, scores, write_parquet
from tests.support.small_world import image

KALEIDOSCOPE = {"en": "What is this?", "es": "¿Qué es esto?", "fr": "Qu'est-ce que c'est ?"}


def fails(
    folder: Path, recipe: str, source: str, capsys: pytest.CaptureFixture[str], *more: str
) -> str:
    words = ["--recipe", recipe, "--name", "b", "--out", str(folder / "o"), "--source", source]
    assert main([*words, *more]) == 2
    return capsys.readouterr().err.replace("\n", " ")


def write_kaleidoscope(folder: Path) -> Path:
    """Write data/train-*.parquet and final_data as CohereLabs/kaleidoscope has them."""
    (folder / "data").mkdir(parents=True)
    (folder / "final_data" / "data" / "exam" / "images").mkdir(parents=True)
    rows = []
    for number, (language, question) in enumerate(KALEIDOSCOPE.items()):
        name = f"data/exam/images/{number}.png"
        (folder / "final_data" / name).write_bytes(image(number))
        shown = {"image": name, "question": f"<image>\n{question}", "options": ["a", "b", "c", "d"]}
        for one in (
            shown,
            {"image": None, "question": "2 + 2?", "options": ["1", "2", "3", "4"]},
            shown | {"options": [f"data/exam/images/{n}.png" for n in range(4)]},
        ):
            rows.append(
                {"language": language, "country": "C", "file_name": "exam", "source": "s",
                 "license": "CC", "level": "High school", "category_en": "Physics",
                 "category_original_lang": "P", "original_question_num": "1", "answer": 2,
                 "image_png": "", "image_information": "essential", "image_type": "figure",
                 "parallel_question_id": None, "general_category_en": "STEM", **one}
            )  # fmt: skip
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    return folder


@pytest.mark.parametrize("language", sorted(KALEIDOSCOPE))
def test_kaleidoscope_asks_the_questions_about_images(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_kaleidoscope(tmp_path / "k")
    (item,) = items = run(tmp_path / "out", "kaleidoscope", f"{language}={place}")
    shown = capsys.readouterr().out
    assert f"6  {language}: another language" in shown
    assert f"2  {language}: no_image_or_image_options" in shown
    assert (item.question, item.choices) == (KALEIDOSCOPE[language], ("a", "b", "c", "d"))
    assert (item.correct_choice, item.question_type) == (2, "STEM")
    prompt = load_prompts([language], style="instructed").question_text(item)
    assert prompt.startswith(f"{KALEIDOSCOPE[language]}\nA. a\nB. b\nC. c\nD. d\n")
    assert scores(items, tmp_path)[f"mc/{language}/accuracy"] == 100.0
    assert scores(items, tmp_path / "wrong", is_right=False)[f"mc/{language}/accuracy"] == 0.0


def test_missing_images_of_kaleidoscope_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_kaleidoscope(tmp_path / "k")
    (place / "final_data" / "data" / "exam" / "images" / "0.png").unlink()
    assert "0.png: No such file" in fails(tmp_path, "kaleidoscope", f"en={place}", capsys)
    (place / "final_data").rename(place / "other")
    assert "unpack data.zip" in fails(tmp_path, "kaleidoscope", f"en={place}", capsys)


def test_mtvqa_asks_every_question_of_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [
        {"question": "Que dit-il ?", "answer": "l'école"},
        {"question": "Où ?", "answer": "ici"},
    ]
    rows = [
        {"image": embedded(0), "qa_pairs": str(pairs), "lang": "FR", "id": 7},
        {"image": embedded(1), "qa_pairs": str(pairs[:1]), "lang": "DE", "id": 8},
    ]
    place = write_parquet(tmp_path / "test-00000-of-00001.parquet", rows)
    items = run(tmp_path / "out", "mtvqa", f"fr={place}")
    assert "1  fr: another language" in capsys.readouterr().out
    assert [(i.question_id, i.answers) for i in items] == [("0_0", ("l'école",)), ("0_1", ("ici",))]
    assert load_prompts(["fr"], style="instructed").question_text(items[0]) == (
        "Que dit-il ?\nAnswer the question using a word or phrase in the language of the question."
    )
    assert scores(items, tmp_path)["open/fr/anls"] == 100.0
    rows[0]["qa_pairs"] = "[{'question': "
    place = write_parquet(tmp_path / "test-00000-of-00001.parquet", rows)
    assert "row 0: qa_pairs is not a list" in fails(tmp_path, "mtvqa", f"fr={place}", capsys)


def exam_question(text: str, options: Sequence[str], answer: str, *more: str) -> dict[str, Any]:
    return {"question_text": text, "background_description": list(more), "answer_text": answer,
            "options": list(options), "need_image": "yes", "language": "english", "level": "mid",
            "subject": "science", "subject_category": "science", "year": "2006"}  # fmt: skip


def test_m3exam_asks_about_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images-english").mkdir()
    for number in (1, 2):
        (tmp_path / "images-english" / f"image-{number}.png").write_bytes(image(number))
    shown = "(image)[image-1.png]"
    questions = [
        exam_question(
            "Which cell?", ["(1) a", "(2) b", "(3) c", "nan"], "2", f"{shown}\n\nA cell."
        ),
        exam_question(f"{shown} Where?", ["A. in", "B. out"], "A"),
        exam_question(f"{shown} [image-2.png] Which?", ["(1) a", "(2) b"], "1"),
        exam_question("Which?", [f"(1) {shown}", "(2) [image-2.png]"], "1"),
        exam_question(f"{shown} What?", ["(1) a", "(2) b"], "5"),
    ]
    file = tmp_path / "english-questions-image.json"
    file.write_text(json.dumps(questions), encoding="utf-8")
    assert "-1 is none of the 2 choices" in fails(tmp_path, "m3exam", f"en={file}", capsys)
    items = run(tmp_path / "out", "m3exam", f"en={file}", more=["--max-unusable", "0.2"])
    out = capsys.readouterr().out
    assert "2  en: not_about_one_image" in out
    assert "1  en: no such choice" in out
    assert [(i.question, i.choices, i.correct_choice) for i in items] == [
        ("A cell.\nWhich cell?", ("a", "b", "c"), 1),
        ("Where?", ("in", "out"), 0),
    ]
    prompt = load_prompts(["en"], style="instructed").question_text(items[0])
    assert prompt.startswith("A cell.\nWhich cell?\nA. a\nB. b\nC. c\n")
    assert scores(items, tmp_path)["mc/en/accuracy"] == 100.0


def test_irlbench_asks_each_version_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"IV": "Cad é seo?", "EV": "What is this?"}
    for version, question in asked.items():
        rows = [
            {"problem": question, "answer": "teach", "problem_image_1": embedded(1),
             "problem_image_2": None, "answer_image_1": None, "answer_image_2": None},
            {"problem": "2 + 2", "answer": "4", "problem_image_1": None,
             "problem_image_2": None, "answer_image_1": None, "answer_image_2": None},
        ]  # fmt: skip
        write_parquet(tmp_path / f"LC021ALP000{version}_problems-00000-of-00001.parquet", rows)
    for language, version in (("ga", "IV"), ("en", "EV")):
        place = f"{language}={tmp_path}/*{version}_problems-*.parquet"
        (item,) = items = run(tmp_path / language, "irlbench", place)
        assert f"1  {language}: not_about_one_image" in capsys.readouterr().out
        assert (item.question, item.answers) == (asked[version], ("teach",))
        assert item.question_type == f"LC021ALP000{version}"
        assert load_prompts([language], style="instructed").question_text(item) == asked[version]
        assert scores(items, tmp_path / language)[f"open/{language}/anls"] == 100.0
    both = [f"ga={tmp_path}/*IV_problems-*.parquet", f"en={tmp_path}/*EV_problems-*.parquet"]
    words = ["--recipe", "irlbench", "--name", "b", "--out", str(tmp_path / "o")]
    assert main([*words, "--source", *both]) == 2
    assert "no question exists in all of ga, en" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(("language", "name"), [("en", "English"), ("fr", "French")])
def test_xm3600_asks_for_a_caption_in_the_language(
    tmp_path: Path, language: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image_id": f"{i:016x}", "image_locale": language, "captions": ["a house", "two houses"],
         "captions_tokenized": ["a house"], "captions_tokenized_lowercase": ["a house"],
         "image": {"bytes": image(i), "path": None}}
        for i in range(2)
    ]  # fmt: skip
    place = write_parquet(tmp_path / f"{language}-00000-of-00001.parquet", rows)
    items = run(tmp_path / "out", "xm3600", f"{language}={place}")
    assert {i.answers for i in items} == {("a house", "two houses")}
    asked = load_prompts([language], style="instructed").question_text(items[0])
    assert asked == f"Briefly describe the image in {name}."
    assert scores(items, tmp_path)[f"open/{language}/chrf"] == pytest.approx(100.0)
    other = place.rename(tmp_path / "validation.parquet")
    text = fails(tmp_path, "xm3600", f"{language}={other}", capsys)
    assert "'validation.parquet' is no language of Crossmodal-3600" in text
