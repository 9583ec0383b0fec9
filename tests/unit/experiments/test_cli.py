"""Options that every command on a grid shares."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from configuration.grid_request import GridRequest
from core.errors import ConfigError
from experiments import chat, export, inspect_stream, run, skypilot
from experiments.cli import add_grid_options, request_of

COMMANDS: dict[Callable[[], argparse.ArgumentParser], list[str]] = {
    run.build_parser: [],
    inspect_stream.build_parser: [],
    chat.build_parser: ["--run", "c"],
    export.build_parser: ["--run", "c", "--to", "hf", "f"],
    skypilot.build_parser: ["--bucket", "s3://b", "--out", "o"],
}


@pytest.mark.parametrize("build_parser", COMMANDS)
def test_every_occurrence_of_set_counts(
    build_parser: Callable[[], argparse.ArgumentParser],
) -> None:
    arguments = ["--exp", "smoke", "--set", "a=1", "--set", "b=2", "c=3", "--seeds", "2"]
    args = build_parser().parse_args([*COMMANDS[build_parser], *arguments])
    request = request_of(args)
    assert request.overrides == ("a=1", "b=2", "c=3")
    assert (request.experiment, request.num_seeds, request.only) == ("smoke", 2, ())


@pytest.mark.parametrize("command", [run, inspect_stream, skypilot])
def test_every_occurrence_of_only_counts(command: ModuleType) -> None:
    more = COMMANDS[command.build_parser]
    arguments = [*more, "--exp", "smoke", "--only", "a", "--only", "b"]
    assert request_of(command.build_parser().parse_args(arguments)).only == ("a", "b")


def test_omitted_options_are_rejected_and_take_their_defaults() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_grid_options(parser, experiment="smoke", omit=("--only", "--root", "--set", "--seeds"))
    request = request_of(parser.parse_args(["--profile", "small"]))
    assert request == GridRequest(experiment="smoke", profile="small", root=Path("mlruns"))
    _, unknown = parser.parse_known_args(["--only", "a"])
    assert unknown == ["--only", "a"]


@pytest.mark.parametrize("root", ["two\nlines", "a\x00b"])
def test_a_root_with_control_characters_is_rejected(root: str) -> None:
    with pytest.raises(ConfigError, match="line feeds and other control characters"):
        GridRequest(experiment="smoke", root=Path(root))
    GridRequest(experiment="smoke", root=Path("o\u02bbn \u00a0#%'\"ñ"))
