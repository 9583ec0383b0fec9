"""Items that can't be asked or scored are rejected before a model is trained."""

import dataclasses

import pytest

from core.errors import ConfigError, DataError
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import load_benchmark
from evaluation.item_checks import check_items
from tests.support.evaluation_doubles import raw_items, small_benchmark, write_benchmark

BARE, INSTRUCTED = (AskingConfig(prompt_style=style) for style in ("bare", "instructed"))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    manifest = small_benchmark(tmp_path_factory.mktemp("benchmark"))
    return load_benchmark(manifest, with_images=False)


def test_a_choice_without_its_options_is_rejected(items):
    """The profile paper asked A-OKVQA as open questions and scored them as multiple choice."""
    with pytest.raises(ConfigError) as error:
        check_items(items, BARE)
    message = str(error.value)
    assert "benchmark 'benchmark_test': multiple-choice question 'q0-3' in 'en'" in message
    assert "and 23 more would be asked without the option 'dog'" in message
    assert "evaluate.prompt_style=instructed" in message


def test_options_reach_the_prompt_through_the_template_or_the_question(items):
    check_items(items, INSTRUCTED)
    shown = [
        dataclasses.replace(item, question=f"Which: {', '.join(f'{c}a' for c in item.choices)}?")
        for item in items
    ]
    check_items(shown, BARE)  # an ending may follow
    partly = [dataclasses.replace(item, question=item.question[:-4]) for item in shown]
    hidden = [
        dataclasses.replace(item, question="Which: hotdog, cat, house, tree?") for item in items
    ]
    for broken in (partly, hidden):
        with pytest.raises(ConfigError, match="would be asked without the option"):
            check_items(broken, BARE)


def test_items_are_loaded_without_images(items):
    assert {item.image for item in items} == {b""}


def test_a_yes_no_item_needs_words_and_an_answer_that_is_one(tmp_path, items):
    yes_no = [item for item in items if item.benchmark == "capqa"]
    with pytest.raises(ConfigError, match="no words for yes and no in 'mt'"):
        check_items([dataclasses.replace(yes_no[0], language="mt")], BARE)
    raw = {**raw_items(0)[4], "answers": {"en": ["maybe"], "eu": ["agian"]}}
    manifest = write_benchmark(tmp_path, [("p", {"items": [raw]}, b"x")])
    with pytest.raises(
        DataError, match="question 'q0-4': the answer 'maybe' is neither yes nor no"
    ):
        check_items(load_benchmark(manifest), BARE)


def test_answers_that_differ_between_languages_are_rejected(tmp_path):
    raw = {**raw_items(0)[4], "answers": {"en": ["yes"], "eu": ["ez"]}}
    manifest = write_benchmark(tmp_path, [("p", {"items": [raw]}, b"x")])
    with pytest.raises(DataError, match="question 'q0-4': the answer 'ez' in 'eu' contradicts"):
        check_items(load_benchmark(manifest), BARE)


def test_an_unknown_style_is_rejected(items):
    with pytest.raises(ConfigError, match="Did you mean 'instructed'"):
        check_items(items, AskingConfig(prompt_style="instruct"))
