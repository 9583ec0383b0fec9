"""`--why` names the input that makes a stage run differ from the nearest finished one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.languages import FOLDER
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.stages.align import AlignStage
from pipeline.store.states import State
from pipeline.store.store import Status, Store
from tests.support import small_world as worlds

CELL = "share40_txt"
GRID = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, "--root", "results")
KINDS = ("features", "align", "instruct", "evaluate")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.build_world(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def world(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a world with its own language files, in which one cell is finished."""
    folder = shutil.copytree(pristine, tmp_path / "world")
    for code in ("en", "eu"):
        shutil.copytree(FOLDER / code, folder / "languages" / code)
    monkeypatch.setattr("evaluation.language_content.FOLDER", folder / "languages")
    monkeypatch.chdir(folder)
    finish_cells("--only", CELL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.process.stop.StopFlag.install", lambda self: None)
        yield folder


def finish_cells(*arguments: str) -> None:
    """Write the records of finished stage runs, with empty results."""
    plan = make_plan(request_of(run.build_parser().parse_args([*GRID, *arguments])))
    for node in plan.graph.nodes.values():
        folder = Store(Path("results")).folder(node.kind, node.address)
        folder.write_stage(node.describe(), node.stage)
        folder.result.mkdir(parents=True, exist_ok=True)


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """Return kind -> state and causes, as the command prints them."""
    assert run.main([*GRID, "--why", CELL, *arguments]) == 0
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        words = line.split()
        if words and words[0] in KINDS:
            kind = words[0]
            found[kind] = [line.partition(": ")[2].partition(";")[0]]
        elif line.startswith("    "):
            found[kind].append(line.strip())
    assert tuple(found) == KINDS
    return found


def test_an_unchanged_cell_is_finished(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(capsys) == {kind: ["finished"] for kind in KINDS}


def test_a_result_of_other_code_is_marked(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = Path("results/store/align").glob("*/stage.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "0123456789abcdef"}))
    assert explain(capsys)["align"] == ["finished, by code 0123456789abcdef"]


def test_a_changed_field_is_named_with_both_values(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explain(capsys, "--set", "evaluate.max_new_tokens=9", "instruct.num_steps=61")
    assert found["features"] == found["align"] == ["finished"]
    assert found["instruct"] == ["has to run", "field num_steps: 60 -> 61"]
    assert found["evaluate"] == [
        "has to run",
        "field settings.max_new_tokens: 8 -> 9",
        "input instruct: field num_steps: 60 -> 61",
    ]


def test_a_change_upstream_is_followed_to_its_cause(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explain(capsys, "--set", "align.optim.lr=0.002")
    cause = "field optim.lr: 0.001 -> 0.002"
    assert found == {
        "features": ["finished"],
        "align": ["has to run", cause],
        "instruct": ["has to run", f"input align: {cause}"],
        "evaluate": ["has to run", f"input instruct: input align: {cause}"],
    }


@pytest.mark.slow
def test_a_changed_language_file_is_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world / "languages" / "eu" / "prompts.yaml"
    path.write_text(path.read_text().replace("bai", "baietz-ba", 1))
    found = explain(capsys)
    assert found.pop("evaluate") == [
        "has to run",
        "file languages/eu/prompts.yaml: content changed",
    ]
    assert set(map(tuple, found.values())) == {("finished",)}


@pytest.mark.slow
def test_changed_files_of_a_model_are_named(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world / "data" / "lm"
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" ")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    found = explain(capsys)
    assert found["features"] == ["finished"], "it reads the tower only"
    changed = [
        "file data/lm/model.safetensors: content changed",
        "file data/lm/chat_template.jinja: new",
    ]
    assert found["align"] == ["has to run", *changed]
    upstream = [f"input align: {line}" for line in changed]
    assert found["instruct"] == ["has to run", *changed, *upstream]


def test_a_changed_manifest_is_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world / "data" / "text_eu.manifest.json"
    path.write_text(path.read_text().replace('"record": "text.eu"', '"record": "chat.eu"'))
    found = explain(capsys)
    cause = "file data/text_eu.manifest.json: content changed"
    assert found["align"] == ["finished"]
    assert found["instruct"] == ["has to run", cause]
    assert found["evaluate"] == ["has to run", f"input instruct: {cause}"]


def test_a_raised_recipe_version_is_named(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AlignStage, "recipe_version", AlignStage.recipe_version + 1)
    found = explain(capsys)
    before = AlignStage.recipe_version - 1
    assert found["align"] == [
        "has to run",
        f"recipe version of 'align': {before} -> {before + 1}",
    ]


@pytest.mark.slow
def test_the_nearest_stage_run_has_the_fewest_differences(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another cell is nearer than the same cell with several other settings."""
    finish_cells("--only", CELL, "--set", "instruct.num_steps=70", "instruct.optim.lr=0.5")
    found = explain(capsys, "--set", "instruct.num_steps=70", "instruct.optim.lr=0.4")
    assert found["instruct"] == ["has to run", "field optim.lr: 0.5 -> 0.4"]


@pytest.mark.slow
def test_unfinished_and_unknown_stage_runs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in Path("results/store").glob("*/*"):
        (folder / "result").rmdir()
    assert explain(capsys)["align"] == [
        "has to run",
    ]
    plan = make_plan(request_of(run.build_parser().parse_args([*GRID, "--only", CELL])))
    (node,) = (node for node in plan.graph.nodes.values() if node.kind == "align")
    folder = Store(Path("results")).folder("align", node.address)
    folder.write_status(Status(state=State.INTERRUPTED, attempts=1))
    (folder.checkpoints / "step=7").mkdir(parents=True)
    assert explain(capsys)["align"] == [
        "started, interrupted, resumes from saved step or part 7",
    ]


def test_an_unknown_cell_is_reported(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*GRID, "--why", "share41"]) == 2
    assert "unknown cell 'share41'" in " ".join(capsys.readouterr().err.split())
