"""Model folders as failed downloads leave them: one error with the folder, no traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.chat.format import load_tokenizer
from core.errors import CheckpointError, ConfigError
from models.language.language_model import LanguageModelConfig, load_language_model

MODEL = Path(__file__).parents[4] / "data/embedded/models/lm_general"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_truncated_weights_are_reported(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model"):
        load_language_model(LanguageModelConfig(path=str(folder)))


def test_a_pointer_of_git_lfs_is_reported(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="model"):
        load_language_model(LanguageModelConfig(path=str(folder)))


def load_shape(folder: Path) -> None:
    load_language_model(LanguageModelConfig(path=str(folder)))


@pytest.mark.parametrize("content", [b"", b"{", POINTER, b"[]"])
@pytest.mark.parametrize(
    ("name", "load"), [("config.json", load_shape), ("tokenizer.json", load_tokenizer)]
)
def test_damaged_json_is_reported(
    folder: Path, name: str, load: Callable[[Path], object], content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError), match="model"):
        load(folder)
