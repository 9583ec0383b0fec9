"""Settings of `python -m evaluation.run`: options, the record of an export, or the default."""

from pathlib import Path

import pytest

from core.config import dump_config
from core.errors import ConfigError
from evaluation.asking import ASKING_FILE, AskingConfig
from evaluation.model_evaluation import choose_settings
from evaluation.run import build_parser, main
from tests.support.evaluation_doubles import small_benchmark


def settings(model: Path, *options: str) -> AskingConfig:
    words = ["--model", str(model), "--benchmark", "b", "--out", "o", *options]
    return choose_settings(build_parser().parse_args(words))


def test_a_foreign_model_is_asked_as_the_authors_of_the_benchmarks_ask(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert chosen == AskingConfig()
    assert chosen.prompt_style == "instructed"
    assert chosen.max_new_tokens_by_kind == {"open": 512, "wild": 4096}
    assert settings(Path("llava-hf/llava-1.5-7b-hf")) == chosen


def test_an_exported_cell_is_asked_as_it_was_evaluated(tmp_path: Path) -> None:
    recorded = AskingConfig(prompt_style="bare", max_new_tokens=4, relaxed=False)
    (tmp_path / ASKING_FILE).write_text(dump_config(recorded))
    assert settings(tmp_path) == recorded
    changed = settings(tmp_path, "--style", "instructed", "--max-new-tokens", "7")
    assert (changed.prompt_style, changed.relaxed) == ("instructed", False)
    assert (changed.max_new_tokens, changed.max_new_tokens_by_kind) == (7, {})


def test_invalid_records_and_options_are_reported(tmp_path: Path) -> None:
    (tmp_path / ASKING_FILE).write_text("prompt_stile: bare")
    with pytest.raises(ConfigError, match="prompt_stile"):
        settings(tmp_path)
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1, got 0"):
        settings(tmp_path / "other", "--max-new-tokens", "0")


def test_a_benchmark_without_visible_options_is_rejected_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = small_benchmark(tmp_path / "data")
    words = ["--model", "nowhere", "--benchmark", str(manifest), "--out", str(tmp_path / "out")]
    assert main([*words, "--style", "bare"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "multiple-choice question 'q0-3' in 'en'" in message
    assert "--style instructed" in message


@pytest.mark.parametrize(
    ("names", "is_taken"),
    [
        ((), False),
        (("predictions.parquet", ".metrics.json.1-a.tmp"), False),
        (("predictions.parquet", "metrics.json"), True),
        (("notes.txt",), True),
    ],
)
def test_a_folder_of_a_stopped_evaluation_is_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], is_taken: bool
) -> None:
    for name in names:
        (tmp_path / name).touch()
    missing = str(tmp_path / "none.json")
    assert main(["--model", "m", "--benchmark", missing, "--out", str(tmp_path)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert ("exists; choose another folder" in message) == is_taken
    assert ("none.json" in message) != is_taken
