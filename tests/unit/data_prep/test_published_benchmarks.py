"""Existing multilingual benchmarks: files of the published schema become scored evaluations.

The contents are synthetic; the columns, file names and identifiers are those of the data sets.
"""

import csv
import json
from pathlib import Path

import pytest

from core.io.images import decode_image
from data_prep.import_benchmark import main
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.prompting import load_prompts
from tests.support.published_files import embedded, run, scores, write_parquet
from tests.support.small_world import image

TOPICS = ("entertainment", "geography", "health", "politics", "science", "sports", "travel")
CODES = {"eu": "eus_Latn", "ga": "gle_Latn", "cy": "cym_Latn", "ka": "kat_Geor"}
NAMES = {"eu": "Basque", "ga": "Irish", "cy": "Welsh", "ka": "Georgian"}
QUESTIONS = {
    "eu": "Zer da hau?",
    "ga": "Cad é seo?",
    "cy": "Beth yw hwn?",
    "ka": "რა არის ეს?",
}
ANSWERS = {"eu": "etxea", "ga": "teach", "cy": "tŷ", "ka": "სახლი"}
REQUESTS = {
    "eu": "Erantzun zuzenean aukera zuzenaren letra emanez.",
    "ga": "Freagair go díreach le litir na rogha cirte.",
    "cy": "Atebwch yn uniongyrchol â llythyren y dewis cywir.",
    "ka": "უპასუხეთ პირდაპირ სწორი ვარიანტის ასოთი.",
}


def write_sib(folder: Path, code: str, *, per_topic: int = 3) -> Path:
    """Write the files of a language and the images as WueNLP/mvl-sib has them."""
    place = folder / "data" / "sib200" / code
    place.mkdir(parents=True)
    rows = [(str(i * 7), topic) for i, topic in enumerate(sorted(TOPICS * per_topic))]
    for split, part in zip(
        ("train", "dev", "test"), (rows[:9], rows[9:12], rows[12:]), strict=True
    ):
        with (place / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
            table.writerow(("index_id", "category", "text"))
            table.writerows((i, topic, f"{code} {topic} {i}") for i, topic in part)
    images = folder / "data" / "images" / "sib200"
    images.mkdir(parents=True, exist_ok=True)
    for number, topic in enumerate(TOPICS):
        for i in range(2):
            (images / f"{topic}_{i}.jpg").write_bytes(image(100 * number + i))
    return place


def test_mvl_sib_has_the_same_questions_in_every_language(tmp_path: Path) -> None:
    places = {language: write_sib(tmp_path, code) for language, code in CODES.items()}
    sources = [f"{language}={place}" for language, place in places.items()]
    items = run(tmp_path / "out", "mvl_sib", *sources)
    assert len(items) == 21 * 4
    by_id: dict[str, list[BenchmarkItem]] = {}
    for item in items:
        by_id.setdefault(item.question_id, []).append(item)
    for same in by_id.values():
        assert len({(i.correct_choice, i.image, i.question_type) for i in same}) == 1
        for item in same:
            topics = [choice.split()[1] for choice in item.choices]
            assert len(set(topics)) == 4, "the other sentences have other topics"
            assert topics[item.correct_choice or 0] == item.question_type
            assert item.choices[0].startswith(CODES[item.language])
    assert {item.correct_choice for item in items} == {0, 1, 2, 3}
    found = scores(items, tmp_path)
    assert [found[f"mc/{language}/accuracy"] for language in CODES] == [100.0] * 4
    guessed = scores(items, tmp_path, is_right=False)
    truth = [item.correct_choice == 0 for item in items if item.language == "ka"]
    assert guessed["mc/ka/accuracy"] == pytest.approx(100 * sum(truth) / len(truth))


@pytest.mark.parametrize("language", sorted(CODES))
def test_the_exact_prompt_of_mvl_sib(tmp_path: Path, language: str) -> None:
    place = write_sib(tmp_path, CODES[language])
    item = run(tmp_path / "out", "mvl_sib", f"{language}={place}")[0]
    prompts = load_prompts([language], style="instructed")
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", item.choices, strict=True)]
    asked = "Which of these sentences has the same topic as the image?"
    assert prompts.question_text(item) == "\n".join([asked, *lines, REQUESTS[language]])


def test_the_text_only_twin_differs_in_the_image_alone(tmp_path: Path) -> None:
    place = write_sib(tmp_path, "eus_Latn")
    items = run(tmp_path / "out", "mvl_sib", f"eu={place}")
    twins = {i.question_id: i for i in run(tmp_path / "out", "mvl_sib_topic", f"eu={place}")}
    assert len(twins) == len(items)
    for item in items:
        twin = twins[item.question_id]
        assert (twin.choices, twin.correct_choice) == (item.choices, item.correct_choice)
        assert twin.question == f"Which of these sentences has the topic '{item.question_type}'?"
    assert len({twin.image for twin in twins.values()}) == 1
    assert decode_image(twins["0"].image).getextrema() == ((255, 255),) * 3


def test_missing_files_of_mvl_sib_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_sib(tmp_path, "eus_Latn")
    for path in (tmp_path / "data" / "images" / "sib200").glob("sports_*"):
        path.unlink()
    words = ["--recipe", "mvl_sib", "--name", "b", "--out", str(tmp_path / "o")]
    assert main([*words, "--source", f"eu={place}"]) == 2
    assert "has no image sports_0.jpg; download data/images/sib200" in capsys.readouterr().err
    assert main([*words, "--source", f"eu={place.parent}"]) == 2
    assert "train.tsv does not exist; give the folder of a language" in capsys.readouterr().err


@pytest.mark.parametrize("language", sorted(CODES))
def test_alm_bench_asks_the_rows_of_a_language(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"file_name": embedded(i), "ID": f"{name}_{i}", "Language": name, "Category": "Food",
         "Question_Type": "Short Questions", "English_Question": "What is this?",
         "English_Answer": "A house.", "Translated_Question": QUESTIONS[code],
         "Translated_Answer": ANSWERS[code], "Image_Url": "https://example.org/a.jpg"}
        for i, (code, name) in enumerate(NAMES.items())
    ]  # fmt: skip
    file = write_parquet(tmp_path / "test.parquet", rows)
    items = run(tmp_path / "out", "alm_bench", f"{language}={file}")
    assert f"3  {language}: another Language" in capsys.readouterr().out
    (item,) = items
    assert (item.benchmark, item.question) == (Benchmark.OPEN, QUESTIONS[language])
    assert item.answers == (ANSWERS[language],)
    assert load_prompts([language], style="instructed").question_text(item) == item.question
    found = scores(items, tmp_path)
    assert found[f"open/{language}/anls"] == 100.0


def test_cvqa_asks_speakers_questions_and_their_translations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image": embedded(i), "ID": f"{i}_0", "Subset": subset, "Question": question,
         "Translated Question": "What is this?", "Options": options,
         "Translated Options": ["a house", "a boat", "a tree", "a road"], "Label": i % 4,
         "Category": "Objects", "Image Type": "Self", "Image Source": "", "License": "CC BY-SA"}
        for i, (subset, question, options) in enumerate([
            ("('Irish', 'Ireland')", QUESTIONS["ga"], ["teach", "bád", "crann", "bóthar"]),
            ("('Irish', 'Ireland')", "Cá bhfuil sé?", ["istigh", "amuigh", "thuas", "thíos"]),
            ("('Breton', 'France')", "Petra eo?", ["ti", "bag", "gwezenn", "hent"]),
        ])
    ]  # fmt: skip
    file = write_parquet(tmp_path / "test.parquet", rows)
    items = run(tmp_path / "out", "cvqa", f"ga={file}")
    assert "1  ga: another Subset" in capsys.readouterr().out
    found = {item.question_id: item for item in items}
    assert [found[f"{i}_0"].choices[i] for i in range(2)] == ["teach", "amuigh"]
    assert [found[f"{i}_0"].correct_choice for i in range(2)] == [0, 1]
    assert load_prompts(["ga"], style="instructed").question_text(found["0_0"]) == (
        "Cad é seo?\nA. teach\nB. bád\nC. crann\nD. bóthar\n" + REQUESTS["ga"]
    )
    assert scores(items, tmp_path)["mc/ga/accuracy"] == 100.0
    english = run(tmp_path / "out", "cvqa_english", f"en={file}")
    assert {item.question for item in english} == {"What is this?"}
    words = ["--recipe", "cvqa", "--name", "b", "--out", str(tmp_path / "o")]
    assert main([*words, "--source", f"eu={file}"]) == 2
    assert "unknown language of the recipe 'eu'" in capsys.readouterr().err


def test_xgqa_and_maxm_are_read_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("n1", "0000a"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(image(1))
    xgqa = {"201": {"question": QUESTIONS["eu"], "answer": "house", "imageId": "n1",
                    "types": {"structural": "query"}, "isBalanced": True}}  # fmt: skip
    file = tmp_path / "testdev_balanced_questions_eu.json"
    file.write_text(json.dumps(xgqa), encoding="utf-8")
    (item,) = run(tmp_path / "out", "xgqa", f"eu={file}")
    assert (item.question_id, item.answers, item.question_type) == ("201", ("house",), "query")
    pair = {"question_id": "0000a_1", "question": QUESTIONS["cy"], "answers": ["Tŷ", "tŷ mawr"],
            "processed_answers": ["tŷ", "tŷ mawr"], "is_collection": False}  # fmt: skip
    annotation = {"image_id": "0000a", "image_url": "u", "qa_pairs": [pair]}
    maxm = {"dataset": "maxm", "version": "v1", "split": "cy", "annotations": [annotation]}
    file = tmp_path / "maxm_v1_cy.json"
    file.write_text(json.dumps(maxm), encoding="utf-8")
    (item,) = items = run(tmp_path / "out", "maxm", f"cy={file}")
    assert item.answers == ("tŷ", "tŷ mawr")
    assert scores(items, tmp_path)["open/cy/anls"] == 100.0


def test_a_recipe_names_its_reader_and_languages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    columns = "{image: image, question: question}"
    recipe.write_text(f"benchmark: wild\nlicence: x\nreader: mvl-sib\ncolumns: {columns}\n")
    words = ["--recipe", str(recipe), "--name", "b", "--out", str(tmp_path / "o")]
    assert main([*words, "--source", f"eu={tmp_path}"]) == 2
    assert "unknown reader of a benchmark recipe 'mvl-sib'" in capsys.readouterr().err
    recipe.write_text(f"benchmark: wild\nlicence: x\nlanguage_column: L\ncolumns: {columns}\n")
    assert main([*words, "--source", f"eu={tmp_path}"]) == 2
    assert "set language_column and languages, or neither" in capsys.readouterr().err
