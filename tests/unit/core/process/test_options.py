"""Numbers on a command line that would fail or be misread later are rejected at once."""

import argparse
import math
from collections.abc import Callable, Sequence

import pytest

from core.process.options import (
    file_name,
    given_path,
    language_code,
    number_between,
    port_number,
    whole_number,
)
from data_prep import import_benchmark
from data_prep.prepare.__main__ import main as prepare
from evaluation import judge
from evaluation.people import run as people
from experiments import chat, skypilot, ui

COMMANDS: tuple[tuple[Callable[[Sequence[str]], object], tuple[str, ...]], ...] = (
    (import_benchmark.main, ("--limit=-1", "--max-unusable=2", "--max-unusable=nan")),
    (prepare, ("--limit=-1", "--workers=0")),
    (judge.main, ("--most=-1", "--price-in=-1", "--price-out=x")),
    (people.main, ("--most=-1", "--overlap=-1", "--port=70000")),
    (chat.main, ("--max-new-tokens=0", "--port=-1")),
    (skypilot.main, ("--devices=-1", "--disk-gb=0")),
    (ui.main, ("--port=x",)),
)


@pytest.mark.parametrize(
    ("main", "option"), [(main, option) for main, options in COMMANDS for option in options]
)
def test_commands_reject_numbers_out_of_range(
    main: Callable[[Sequence[str]], object], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([option])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    name, _, value = option.partition("=")
    assert f"argument {name}: " in message
    assert value in message
    assert "expected" in message


def test_numbers_in_range_are_parsed() -> None:
    assert whole_number(0)("12") == 12
    assert port_number("0") == 0
    assert number_between(0, 1)("0.25") == 0.25
    assert number_between(0, math.inf)("1e9") == 1e9
    with pytest.raises(argparse.ArgumentTypeError, match="'inf' is invalid; expected"):
        number_between(0, math.inf)("inf")
    with pytest.raises(argparse.ArgumentTypeError, match="3 is out of range; expected 1 to 2"):
        whole_number(1, 2)("3")


def test_paths_names_and_languages_that_are_none() -> None:
    """`--out $UNSET` wrote into the working directory."""
    for parse, good, bad in (
        (given_path, ["a", "a b/c", "."], ["", " ", "a\0b"]),
        (
            file_name,
            ["a", "caption_eu", "vqa-2.0"],
            ["", "..", ".a", "a/b", "a\nb", " ", "x" * 101],
        ),
        (language_code, ["eu", "zh-Hant"], ["", "e u", "eu,en", "../eu", "eu-"]),
    ):
        for text in good:
            assert str(parse(text)) == text
        for text in bad:
            with pytest.raises(argparse.ArgumentTypeError):
                parse(text)
