"""Benchmarks that can't be asked or scored are rejected while a grid is planned, by question id."""

import dataclasses
from pathlib import Path

import pytest

from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import EMBEDDED
from core.errors import DataError
from evaluation.benchmarks.items import load_benchmark
from pipeline.benchmark_checks import check_special_tokens
from tests.support.doubles import make_tokenizer
from tests.support.evaluation_doubles import small_benchmark


def test_special_tokens_of_the_tokenizer_are_rejected_by_question(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    tokenizer.save_pretrained(tmp_path / "lm")
    items = load_benchmark(small_benchmark(tmp_path), with_images=False)
    chat = ChatFormat(load_tokenizer(tmp_path / "lm"), EMBEDDED, num_image_tokens=1)
    check_special_tokens(items, chat)
    bad = dataclasses.replace(items[7], choices=("a</s>", "b"))
    with pytest.raises(DataError, match=rf"question '{bad.question_id}' in 'eu'.*'</s>'"):
        check_special_tokens([*items, bad], chat)
