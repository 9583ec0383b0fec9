"""Cells of any architecture exported in our own format: same weights, logits and answers."""

import shutil
from pathlib import Path

import pytest
import torch

from core.chat.tokens import IMAGE_MARK
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from experiments import chat, export
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.assemble import VlmParts
from serving.cell import find_cells, load_cell
from serving.own_format import MODEL_FILE, load_own
from tests.integration.models.test_architecture_training import SETTINGS
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
STEPS = ("align.num_steps=3", "instruct.num_steps=4")


def answers(parts: VlmParts) -> list[str]:
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    asked = [
        VisualQuestion(turns=turns, image=worlds.image(seed), max_new_tokens=8) for seed in range(6)
    ]
    answerer = VlmAnswerer(parts.model, parts.chat, parts.encode_image, batch_size=4)
    return [reply.text for reply in answerer.answer(asked)]


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_export_answers_like_its_cell(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = worlds.build_world(tmp_path / "world")
    monkeypatch.chdir(world)
    settings = [*STEPS, f"model.connector.kind={kind}", SETTINGS[kind]]
    if kind == "resampler":
        settings.append("instruct.tuning={kind: lora, rank: 2}")
    code, output = worlds.run(world, worlds.grid_arguments("out", "--set", *settings))
    assert code == 0, output
    grid = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, "--root", "out")
    words = ["--run", worlds.CELL, "--to", "irudimen", "../own", *grid, "--set", *settings]
    assert export.main(words) == 0
    request = request_of(export.build_parser().parse_args(words))
    (cell,) = find_cells(make_plan(request), [worlds.CELL], root=request.root)
    expected = answers(load_cell(cell, torch.device("cpu")))
    monkeypatch.chdir(tmp_path)  # the export needs neither the world nor the store
    for part in ("data", "out"):
        shutil.rmtree(world / part)
    assert answers(load_own(Path("own"), torch.device("cpu"))) == expected
    (tmp_path / "image.webp").write_bytes(worlds.image(0))
    asked = ["--model", "own", "--image", "image.webp", "--ask", "Zer da hau?"]
    capsys.readouterr()
    assert chat.main([*asked, "--style", "bare", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out.strip()
    assert chat.main([*asked, "--run", "x"]) != 0
    assert "either --run CELL or --model FOLDER" in capsys.readouterr().err
    (tmp_path / "own" / MODEL_FILE).unlink()
    assert chat.main(asked) != 0
    assert f"has no {MODEL_FILE}" in capsys.readouterr().err
