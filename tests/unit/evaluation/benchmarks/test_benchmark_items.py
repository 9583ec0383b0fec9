"""Benchmark shards, prompts, baselines and identification of the language of replies."""

import dataclasses

import numpy as np
import pytest

from core.errors import ConfigError, DataError
from datamodules.shards.manifest import Modality
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.images import open_images
from evaluation.benchmarks.items import Benchmark, load_benchmark, load_benchmarks
from evaluation.benchmarks.prompting import load_prompts
from evaluation.metrics.baselines import majority_baseline
from evaluation.metrics.reply_language import ReplyLanguage, is_in_language
from tests.support.doubles import (
    NUM_IMAGE_TOKENS,
    make_chat,
    make_texts,
    write_shard,
    write_source,
)
from tests.support.evaluation_doubles import (
    LANGUAGES,
    both,
    raw_items,
    scorer,
    small_benchmark,
    write_benchmark,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return small_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def items(manifest):
    return load_benchmark(manifest)


@pytest.fixture(scope="module")
def chat():
    return make_chat()


def test_all_items_are_loaded_in_order(items):
    assert len(items) == 12 * 5 * 2
    first = items[0]
    assert (first.question_id, first.language, first.image_key) == ("q0-0", "en", "p00")
    assert first.image == b"image 0"
    assert {item.dataset for item in items} == {"benchmark_test"}
    assert items[1].language == "eu"
    assert items[1].answers == ("txakur",) * 9 + ("animalia",)
    choice = next(item for item in items if item.benchmark is Benchmark.MULTIPLE_CHOICE)
    assert choice.answers == ("dog",)
    assert choice.choices == ("dog", "cat", "house", "tree")
    assert "image=" not in repr(first)


def test_a_selection_of_languages_is_loaded(manifest):
    assert {item.language for item in load_benchmark(manifest, ["eu"])} == {"eu"}
    with pytest.raises(DataError, match="has no cy"):
        load_benchmark(manifest, ["eu", "cy"])


def raw_item(**changes):
    return {**raw_items(0)[0], **changes}


def choice_item(**changes):
    return {**raw_items(0)[3], "correct_choice": 0, **changes}


@pytest.mark.parametrize(
    ("item", "image", "match"),
    [
        (raw_item(benchmark="pope"), b"x", "'pope' is not a kind of benchmark"),
        (raw_item(answers=both([], [])), b"x", "in 'en', answers: the list is empty"),
        (raw_item(answers=None), b"x", "in 'en', answers: None is not a list"),
        (raw_item(answers=both(["a", None], ["b"])), b"x", "answers: None is not text"),
        (raw_item(answers=both("a", "b")), b"x", "answers: 'a' is not a list"),
        (raw_item(answers=both([float("nan")], ["b"])), b"x", "answers: nan is not text"),
        (raw_item(question={"en": "?"}), b"x", "in 'eu', question: None is not text"),
        (raw_item(question="zer?"), b"x", "question: None is not text"),
        (raw_item(question=both("<image> what?", "zer?")), b"x", "contains '<image>'"),
        (raw_item(question=both("what?", "zer <image 2>?")), b"x", "in 'eu', .*'<image 2>'"),
        (raw_item(question=both("what?", "zer?<|eot_id|>")), b"x", r"contains '<\|eot_id\|>'"),
        (raw_item(question=both(" ", "zer?")), b"x", "the text is empty"),
        (raw_item(question=both("\ud83d", "zer?")), b"x", "surrogate"),
        (raw_item(question_id=None), b"x", "question_id: there is no value"),
        (raw_item(answer_type=None), b"x", "answer_type: None is not text"),
        (choice_item(correct_choice=4), b"x", "4 is none of the 4 choices"),
        (choice_item(correct_choice=-1), b"x", "-1 is none of the 4 choices"),
        (choice_item(correct_choice="1"), b"x", "'1' is none of the 4 choices"),
        (choice_item(correct_choice=True), b"x", "True is none of the 4 choices"),
        (choice_item(choices=both(["a", "A."], ["b", "c"])), b"x", "can't be told apart"),
        (choice_item(choices=both(["a"], ["b"])), b"x", "has 1 choices"),
        (choice_item(choices=both(["a", "b"], ["c", "d", "e"])), b"x", "numbers of choices differ"),
        (choice_item(choices=both("ab", "cd")), b"x", "choices: 'ab' is not a list"),
        (raw_item(), None, "no image"),
    ],
)
def test_an_invalid_item_is_reported_with_its_sample(tmp_path, item, image, match):
    manifest = write_benchmark(tmp_path, [("bad", {"items": [item]}, image)])
    with pytest.raises(DataError, match=f"sample 'bad'.*{match}") as raised:
        load_benchmark(manifest)
    is_named = f"question '{item['question_id']}'" in str(raised.value)
    assert is_named or item["question_id"] is None or image is None


@pytest.mark.parametrize("content", [{"items": None}, {"items": ["q"]}, {"item": []}])
def test_a_sample_without_items_is_reported(tmp_path, content):
    manifest = write_benchmark(tmp_path, [("bad", content, b"x")])
    with pytest.raises(DataError, match=r"sample 'bad'.*no list of objects 'items'"):
        load_benchmark(manifest)


def test_duplicate_question_ids_are_an_error(tmp_path):
    samples = [(key, {"items": [raw_item()]}, b"x") for key in ("a", "b")]
    with pytest.raises(DataError, match="'q0-0' appears twice in vqa/en"):
        load_benchmark(write_benchmark(tmp_path, samples))


def test_an_image_key_in_two_shards_is_an_error(tmp_path):
    """Predictions, intervals and pages know an image by its key, so one would be shown for both."""
    entries = [
        write_shard(tmp_path / f"{at}.tar", [("00000", {"items": raw_items(at)}, b"image %d" % at)])
        for at in range(2)
    ]
    manifest = write_source(
        tmp_path, "benchmark_two", entries, language="en,eu", modality=Modality.BENCHMARK
    )
    for read in (load_benchmark, open_images):
        with pytest.raises(DataError, match=r"key '00000' is in two shards, .*0\.tar and .*1\.tar"):
            read(manifest)


def test_several_benchmarks_are_told_apart_by_their_names(tmp_path, manifest):
    samples = [("p00", {"items": raw_items(0)}, b"another image")]
    (tmp_path / "culture").mkdir()
    other = write_benchmark(tmp_path / "culture", samples, name="culture")
    items = load_benchmarks([manifest, other], LANGUAGES)
    assert [item.dataset for item in items] == ["benchmark_test"] * 120 + ["culture"] * 10
    # Ids and image keys may be the same in two benchmarks.
    assert {item.image for item in items if item.image_key == "p00"} == {
        b"image 0",
        b"another image",
    }


def test_two_benchmarks_of_one_name_are_an_error(tmp_path, manifest):
    (tmp_path / "again").mkdir()
    same = write_benchmark(tmp_path / "again", [("p", {"items": raw_items(0)}, b"x")])
    with pytest.raises(DataError, match=r"are both named 'benchmark_test'"):
        load_benchmarks([manifest, same])


def test_a_source_of_another_modality_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected benchmark"):
        load_benchmark(make_texts(tmp_path, "text_eu"))


def test_a_prompt_has_the_image_before_the_question(items, chat):
    book = load_prompts(LANGUAGES)
    assert book.question_text(items[0]) == "name?"
    question = book.question(items[0])
    assert question.image == items[0].image
    text = chat.tokenizer.decode(chat.encode_prompt(question.turns))
    images = "<|image|>" * NUM_IMAGE_TOKENS
    assert text == f"<|begin_of_text|><|user|>{images}\nname?<|assistant|>"


def test_instructed_prompts_list_the_choices_and_ask_for_a_short_answer(items):
    book = load_prompts(LANGUAGES, style="instructed")
    choice = next(item for item in items if item.benchmark is Benchmark.MULTIPLE_CHOICE)
    assert book.question_text(choice).startswith("choice?\nA. dog\nB. cat\nC. house\nD. tree\n")
    assert book.question_text(items[1]).endswith("hitz edo esaldi labur bakar bat erabiliz.")


def test_invalid_prompt_files_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'instructed'"):
        load_prompts(["eu"], style="instruct")
    (tmp_path / "cy").mkdir()
    path = tmp_path / "cy" / "prompts.yaml"
    path.write_text("styles: {bare: {vqa: 'Beth?'}}")
    with pytest.raises(ConfigError, match=r"styles\.bare\.vqa is 'Beth\?'"):
        load_prompts(["cy"], folder=tmp_path)
    path.write_text("styles: {own: {vqa: '{question}'}}")
    with pytest.raises(ConfigError, match=r"own\.mc is None"):
        load_prompts(["cy"], style="own", folder=tmp_path)
    path.write_text("styles: {bare: {vqaa: '{question}'}}")
    with pytest.raises(ConfigError, match=r"styles\.bare: unknown kind of benchmark 'vqaa'"):
        load_prompts(["cy"], folder=tmp_path)
    path.write_text("styles: {bare: {mc: '{question} {options}'}}")
    with pytest.raises(
        ConfigError, match=r"bare\.mc has '\{options\}', which is not a placeholder"
    ):
        load_prompts(["cy"], folder=tmp_path)
    path.write_text("styles: {bare: {vqa: '{question} {choices}'}}")
    with pytest.raises(
        ConfigError, match=r"bare\.vqa has '\{choices\}', which is not a placeholder"
    ):
        load_prompts(["cy"], folder=tmp_path)
    path.write_text("yes_words: [ydy]\nno_words: [nac ydy, Ydy!]")
    with pytest.raises(ConfigError, match=r"cy/prompts\.yaml: ydy is in yes_words and in no_words"):
        load_prompts(["cy"], folder=tmp_path)
    path.write_text("yes_words: ['?']\nno_words: [nage]")
    with pytest.raises(ConfigError, match="has no letters"):
        load_prompts(["cy"], folder=tmp_path)


def test_a_language_without_a_prompt_file_uses_the_bare_question(items):
    book = load_prompts(["mt"])
    assert book.templates["mt"]["vqa"] == "{question}"
    with pytest.raises(ConfigError, match="yes and no in 'mt'"):
        YesNoParser(book.yes_no_words).parse("x", "mt")


def test_braces_in_a_question_are_kept(items):
    item = dataclasses.replace(items[0], question="what is {choices}?")
    assert load_prompts(LANGUAGES).question_text(item) == "what is {choices}?"


def test_the_majority_baseline_picks_the_best_constant_reply(items):
    baseline = majority_baseline(items, scorer())
    answers = {key[1:]: (best.answer, best.score) for key, best in baseline.answers.items()}
    # One vote of ten everywhere (.3) beats nine votes on a quarter of the images.
    assert answers["vqa", "other", "eu"] == ("animalia", pytest.approx(0.3))
    assert answers["vqa", "yes/no", "eu"] == ("bai", 0.5)
    assert answers["mc", "choice", "en"][1] == 0.25
    assert answers["capqa", "yes/no", "en"] == ("no", 0.5)
    assert baseline.answers["benchmark_test", "vqa", "number", "en"].num_items == 12
    assert np.isnan(baseline.scores_aware).sum() == 12 * 2 * 2


def test_the_best_constant_choice_may_be_a_letter(tmp_path):
    raw = [{**raw_items(at)[3], "correct_choice": 2} for at in range(4)]
    for at, item in enumerate(raw):
        item["choices"] = {k: [f"{c}{at}" for c in v] for k, v in item["choices"].items()}
    samples = [(f"p{at}", {"items": [item]}, b"x") for at, item in enumerate(raw)]
    items = load_benchmark(write_benchmark(tmp_path, samples))
    best = majority_baseline(items, scorer()).answers["benchmark_test", "mc", "choice", "eu"]
    assert (best.answer, best.score) == ("C", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("txakur", "eu"),
        ("Dog.", "en"),
        ("katu txakur", "eu"),
        ("a dog", "en"),
        ("3", "en+eu"),
        ("", ""),
        ("...", ""),
        ("\ufffd\ufffd\ufffd", ""),
        ("txakur\ufffd", ""),
        ("3 \ufffd", ""),
        ("this is an image of something", "en"),
        ("hau irudi bat da eta ez dakit zer den", "eu"),
    ],
)
def test_the_language_of_a_reply_is_identified(items, reply, expected):
    assert ReplyLanguage(items, LANGUAGES).identify(reply) == expected


def test_an_answer_of_both_languages_counts_for_both(items):
    pizza = [
        dataclasses.replace(items[0], language=language, answers=("pizza",))
        for language in LANGUAGES
    ]
    identified = ReplyLanguage(pizza, LANGUAGES).identify("Pizza")
    assert identified == "en+eu"
    assert is_in_language(identified, "eu")
    assert is_in_language(identified, "en")
    assert not is_in_language("", "eu")


def test_tied_votes_are_decided_by_the_identifier(items):
    assert ReplyLanguage(items, LANGUAGES).identify("dog txakur") in LANGUAGES
    assert ReplyLanguage(items, ["eu"]).identify("zzz") == "eu"


def test_an_unsupported_language_is_not_assigned_by_restriction(items):
    assert ReplyLanguage([], ["eu", "qqq"]).identify("this is a long English sentence") == "en"


def test_an_answer_that_is_neither_yes_nor_no_is_an_error(tmp_path):
    item = {**raw_items(0)[4], "answers": both(["maybe"], ["agian"])}
    items = load_benchmark(write_benchmark(tmp_path, [("p", {"items": [item]}, b"x")]))
    with pytest.raises(DataError, match="'maybe' is neither yes nor no in 'en'"):
        scorer().score(items[0], "yes")
