"""Hub names: required revisions, actionable errors, masked access tokens."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.chat.format import load_tokenizer
from core.errors import CheckpointError, ConfigError
from core.io.hub import explain_hub_error, hub_arguments, is_hub_name
from models.language.language_model import LanguageModelConfig, load_language_model
from models.towers.vision_tower import VisionTowerConfig, load_vision_tower

NAME = "owner-of/a-model.1"


def response(status: int) -> Any:
    """Build the part of a response that the hub's errors read; its HTTP library has changed."""
    request = SimpleNamespace(method="GET", url=f"https://huggingface.co/{NAME}")
    return SimpleNamespace(status_code=status, headers={}, request=request)


def wrapped(cause: Exception) -> OSError:
    """Wrap an error as transformers does."""
    try:
        raise OSError("something went wrong, Authorization: hf_abcdefghijk123") from cause
    except OSError as error:
        return error


def test_hub_names_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(NAME)
    assert not is_hub_name("/data/models")
    assert not is_hub_name("a/b/c")
    (tmp_path / "owner-of" / "a-model.1").mkdir(parents=True)
    assert not is_hub_name(NAME)


def test_a_hub_name_needs_a_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"tower '{NAME}'.*needs a revision.*commits/main"):
        hub_arguments(NAME, "", kind="tower")
    assert hub_arguments(NAME, "main", kind="tower") == {"revision": "main"}
    assert hub_arguments(tmp_path, "", kind="tower") == {}


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (GatedRepoError("x", response=response(403)), r"accept its licence at.*hf auth login"),
        (RepositoryNotFoundError("x", response=response(401)), "private or gated.*hf auth login"),
        (HfHubHTTPError("x", response=response(403)), "private or gated.*hf auth login"),
        (RevisionNotFoundError("x", response=response(404)), "no revision 'abc'"),
        (LocalEntryNotFoundError("x"), f"hf download {NAME} --revision abc"),
    ],
)
def test_download_errors_explain_the_fix(
    cause: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    explanation = explain_hub_error(wrapped(cause), NAME, "abc")
    assert re.search(message, explanation), explanation
    assert "hf_abc" not in explanation


def test_access_tokens_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    explanation = explain_hub_error(wrapped(ValueError("x")), NAME)
    assert "hf_***" in explanation
    assert "hf_abc" not in explanation


def test_offline_errors_contain_the_download_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    advice = rf"HF_HUB_OFFLINE is set.*`hf download {NAME} --revision abc` on a machine"
    with pytest.raises(ConfigError, match=advice):
        load_tokenizer(NAME, revision="abc")
    with pytest.raises(CheckpointError, match=advice):
        load_language_model(LanguageModelConfig(path=NAME, revision="abc"))
    for library in ("transformers", "timm"):
        name = NAME if library == "transformers" else "timm/vit_tiny_patch16_224.x"
        config = VisionTowerConfig(library=library, name=name, hub_revision="abc")
        with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE is set.*hf download"):
            load_vision_tower(config)


def test_errors_about_data_sets_name_their_page_and_command() -> None:
    missing = RepositoryNotFoundError("x", response=response(404))
    explanation = explain_hub_error(missing, NAME, kind="dataset")
    assert f"https://huggingface.co/datasets/{NAME} does not exist" in explanation
    command = f"hf download {NAME} --revision abc --repo-type dataset"
    assert command in explain_hub_error(LocalEntryNotFoundError("x"), NAME, "abc", kind="dataset")
