"""Limits of replies within which questions can't be answered are named before training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from core.errors import ConfigError
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import Benchmark, BenchmarkItem, load_benchmark
from evaluation.reply_length_checks import check_reply_lengths, find_unreachable
from tests.support.evaluation_doubles import small_benchmark

INSTRUCTED = AskingConfig(max_new_tokens=4, max_new_tokens_by_kind={})


def count_bytes(replies: Sequence[str]) -> list[int]:
    """Count as a tokenizer does that has no merges, with an end token."""
    return [len(reply.encode("utf-8")) + 1 for reply in replies]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[BenchmarkItem]:
    manifest = small_benchmark(tmp_path_factory.mktemp("benchmark"))
    return load_benchmark(Path(manifest), with_images=False)


def only(items: Sequence[BenchmarkItem], kind: str, language: str) -> list[BenchmarkItem]:
    return [item for item in items if (item.benchmark, item.language) == (kind, language)]


def with_answers(item: BenchmarkItem, *answers: str) -> BenchmarkItem:
    return dataclasses.replace(item, answers=answers)


def test_the_error_names_benchmark_kind_language_and_the_sufficient_limit(
    items: list[BenchmarkItem],
) -> None:
    with pytest.raises(ConfigError) as error:
        check_reply_lengths(items, INSTRUCTED, count_bytes)
    text = str(error.value)
    assert "benchmark_test, vqa in 'eu': " in text
    assert "'txakur'" in text or "'zuhaitz'" in text
    assert text.endswith("Set evaluate.max_new_tokens=8"), text
    enough = dataclasses.replace(INSTRUCTED, max_new_tokens=8)
    check_reply_lengths(items, enough, count_bytes)


def test_the_shortest_of_several_answers_decides(items: list[BenchmarkItem]) -> None:
    item = only(items, "vqa", "eu")[0]
    assert not find_unreachable([with_answers(item, "txakurra", "or")], INSTRUCTED, count_bytes)
    (found,) = find_unreachable([with_answers(item, "txakurra", "katua")], INSTRUCTED, count_bytes)
    assert (found.num_tokens, found.answer, found.num_items) == (6, "katua", 1)


def test_a_letter_is_enough_where_the_prompt_shows_letters(items: list[BenchmarkItem]) -> None:
    choices = only(items, "mc", "eu")
    assert not find_unreachable(choices, INSTRUCTED, count_bytes)
    bare = dataclasses.replace(INSTRUCTED, prompt_style="bare")
    (found,) = find_unreachable(choices, bare, count_bytes)
    assert found.kind is Benchmark.MULTIPLE_CHOICE


def test_a_yes_needs_the_shortest_word_for_it(items: list[BenchmarkItem]) -> None:
    yes_no = only(items, "capqa", "eu")
    assert not find_unreachable(yes_no, INSTRUCTED, count_bytes)
    tight = dataclasses.replace(INSTRUCTED, max_new_tokens=2)
    (found,) = find_unreachable(yes_no, tight, count_bytes)
    assert found.num_tokens == len("bai") + 1, "'ez' and 'bai' and the end of the turn"


def test_a_kind_with_its_own_limit_is_told_its_own_key(items: list[BenchmarkItem]) -> None:
    settings = AskingConfig(
        prompt_style="bare", max_new_tokens=8, max_new_tokens_by_kind={"mc": 3, "wild": 1}
    )
    with pytest.raises(ConfigError, match=r"Set evaluate\.max_new_tokens_by_kind\.mc=8$"):
        check_reply_lengths(items, settings, count_bytes)


def test_replies_without_references_have_no_required_length(items: list[BenchmarkItem]) -> None:
    wild = dataclasses.replace(items[0], benchmark=Benchmark.WILD, answers=())
    settings = AskingConfig(max_new_tokens=1, max_new_tokens_by_kind={})
    assert not find_unreachable([wild], settings, count_bytes)


def test_a_script_that_the_tokenizer_cuts_into_bytes_needs_more(
    items: list[BenchmarkItem],
) -> None:
    """A Khmer answer of 40 tokens could never be right within 16."""
    tokenizer = load_tokenizer("data/embedded/models/lm_general")
    chat = ChatFormat(tokenizer, TEMPLATES["embedded"], num_image_tokens=1)
    khmer = with_answers(only(items, "vqa", "eu")[0], "ផ្លែប៉ោមក្រហម")
    settings = AskingConfig(max_new_tokens=16, max_new_tokens_by_kind={})
    (found,) = find_unreachable([khmer], settings, chat.count_reply_tokens)
    assert 30 < found.num_tokens < 60
    enough = dataclasses.replace(settings, max_new_tokens=found.num_tokens)
    assert not find_unreachable([khmer], enough, chat.count_reply_tokens)


def test_reply_tokens_are_those_of_training() -> None:
    """The answer and its end as they stand in a training sample."""
    tokenizer = load_tokenizer("data/embedded/models/lm_general")
    chat = ChatFormat(tokenizer, TEMPLATES["embedded"], num_image_tokens=1)
    words = ["etxea", "Bi txakur handi.", "ñ"]
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert chat.count_reply_tokens(words) == [len(own) + 1 for own in ids]
    assert chat.count_reply_tokens([]) == []
