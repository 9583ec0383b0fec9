"""A trained cell of a ready-made model: adapters exported by the command, and chat."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.process.stop import StopFlag
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.items import Benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from experiments import chat, export, run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.launchers import worker
from tests.support import ranks
from tests.support import ready_world as ready
from tests.support.ranks import World

pytestmark = pytest.mark.slow
LORA = (
    "instruct.tuning={kind: lora, rank: 2}", "instruct.optim.lr=0.002", "instruct.num_steps=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """World whose training ran in this process."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ready.build_ready_world(folder, "qwen3_vl")
        words = ready.grid_arguments("one", "--set", *LORA)
        plan = make_plan(request_of(run.build_parser().parse_args(words)))
        world = World(folder=folder, graph=plan.graph)
        trained = ranks.prepare(world, "instruct", root="one", devices=1)
        assert worker._run_attempt(trained, StopFlag()) == 0
        yield world


def words(*more: str) -> list[str]:
    grid = ["--exp", "mix_ablation", "--profile", ready.PROFILE, "--root", "one", "--set", *LORA]
    return [*grid, "--run", ready.CELL, *more]


def test_adapters_and_the_merged_model_answer_like_the_chat(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(words("--to", "peft", "adapters")) == 0
    assert export.main(words("--to", "hf", "merged")) == 0
    card = Path("adapters/README.md").read_text()
    assert "library_name: peft" in card
    assert "`load_adapter`" in card
    sizes = [sum(f.stat().st_size for f in Path(name).glob("*.safetensors"))
             for name in ("adapters", "merged")]  # fmt: skip
    assert sizes[0] < sizes[1]
    capsys.readouterr()
    template = load_prompts(["eu"], style="bare").templates["eu"][Benchmark.VQA]
    text = template.replace("{question}", "Zer da hau?")
    for number in range(3):
        image = ready.sized_image(number)
        (world.folder / "asked.png").write_bytes(image)
        asked = ("--image", "asked.png", "--ask", "Zer da hau?", "--max-new-tokens", "8")
        assert chat.main(words(*asked)) == 0
        printed = capsys.readouterr().out.replace("(truncated at --max-new-tokens)", "")
        said = " ".join(printed.split())
        question = VisualQuestion(
            turns=(Turn(role=Role.USER, content=f"<image>\n{text}"),), image=image, max_new_tokens=8
        )
        for folder in ("adapters", "merged"):
            (reply,) = HuggingFaceAnswerer(folder).answer([question])
            assert " ".join(reply.text.split()) == said, folder


def test_a_cell_of_a_composed_model_has_no_adapters_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--exp", "mix_ablation", "--profile", "tiny", "--root", "none", "--run", ready.CELL]
    assert export.main([*grid, "--to", "peft", "unused"]) == 2
    assert "exports adapters of ready-made models" in " ".join(capsys.readouterr().err.split())
    assert not (world.folder / "unused").exists()
