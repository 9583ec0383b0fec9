"""The language files that an evaluation reads are part of its address."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from configuration.axes import name_cells
from configuration.run_config import RunConfig
from core.chat.templates import EMBEDDED, TEMPLATES
from core.config import load_config
from core.languages import FOLDER
from evaluation.answers.languages import basque
from evaluation.language_content import language_content
from pipeline.graph import build_graph
from tests.support import small_world


@pytest.fixture
def languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the language files that the evaluation reads."""
    folder = tmp_path / "languages"
    for code in ("en", "eu"):
        shutil.copytree(FOLDER / code, folder / code)
    monkeypatch.setattr("evaluation.language_content.FOLDER", folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_world.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def addresses(*overrides: str) -> dict[str, str]:
    config = load_config(
        RunConfig, Path("configs") / f"{small_world.PROFILE}.yaml", overrides=overrides
    )
    graph = build_graph(name_cells([config]))
    return {node.kind: address for address, node in graph.nodes.items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_a_corrected_word_is_applied_to_finished_grids(languages: Path) -> None:
    """Before, the same command printed the scores of the old word without a message."""
    before = addresses()
    edit(languages / "eu" / "prompts.yaml", "bai", "baietz-ba")
    after = addresses()
    assert {kind for kind in before if before[kind] != after[kind]} == {"evaluate"}


@pytest.mark.parametrize("name", ["prompts.yaml", "answers.yaml"])
def test_comments_do_not_change_an_address(languages: Path, name: str) -> None:
    before, path = addresses(), languages / "eu" / name
    path.write_text(f"# a remark\n{path.read_text()}\n# another one\n")
    assert addresses() == before


def test_only_the_templates_of_the_own_style_count(languages: Path) -> None:
    bare, instructed = addresses(), addresses("evaluate.prompt_style=instructed")
    edit(languages / "eu" / "prompts.yaml", "Erantzun zuzenean", "Erantzun berehala")
    assert addresses() == bare
    assert addresses("evaluate.prompt_style=instructed")["evaluate"] != instructed["evaluate"]


def test_only_the_wordings_that_are_asked_count(languages: Path) -> None:
    setting = "evaluate.wordings=[short_cue]"
    before, other = addresses(setting), addresses()
    assert before["evaluate"] != other["evaluate"]
    edit(languages / "eu" / "prompts.yaml", "Erantzun laburra:", "Erantzuna:")
    assert addresses(setting)["evaluate"] != before["evaluate"]
    assert addresses() == other


def test_answer_files_and_rules_in_code_count(languages: Path) -> None:
    before = addresses()
    answers = languages / "eu" / "answers.yaml"
    original = answers.read_text()
    answers.write_text("articles: [bat]\n")
    assert addresses()["evaluate"] != before["evaluate"]
    answers.unlink()
    assert addresses()["evaluate"] != before["evaluate"]
    answers.write_text(original)
    assert addresses() == before
    content = language_content(["eu"], "bare")["languages/eu/answers.yaml"]
    assert isinstance(content, dict)
    assert content["version"] == basque.RULES.version


def test_a_chat_template_is_part_of_every_stage_that_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = addresses()
    changed = dataclasses.replace(EMBEDDED, user_suffix="\n")
    monkeypatch.setitem(TEMPLATES, "embedded", changed)
    after = addresses()
    assert {kind for kind in before if before[kind] != after[kind]} == {
        "align",
        "instruct",
        "evaluate",
    }
