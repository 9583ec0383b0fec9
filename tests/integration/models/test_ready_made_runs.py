"""A tiny Qwen3-VL with images of ten shapes through the real commands."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from callbacks.checkpoints import latest_checkpoint
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from experiments.cli import request_of
from experiments.export import build_parser, main
from experiments.run_steps.planning import make_plan
from pipeline.answerers import make_answerer
from pipeline.store.store import StageFolder
from serving.cell import find_cells, load_cell
from tests.support import ranks
from tests.support import ready_world as ready
from tests.support import small_world as worlds
from tests.support.ranks import World

pytestmark = pytest.mark.slow
LORA = (
    "instruct.tuning.kind=lora", "instruct.tuning.rank=2", "instruct.optim.lr=0.01",
    "instruct.policy={tower: true, connector: false, language_model: true}",
    "model.ready_made.max_pixels=512", "instruct.num_steps=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        world = ready.build_ready_world(folder, "qwen3_vl")
        settings = ("--set", "retention.tasks=[text:text_eu]", "trainer.log_every_n_steps=1")
        code, output = worlds.run(folder, ready.grid_arguments("one", *settings))
        assert code == 0, output
        yield world


def weights(root: str) -> dict[str, torch.Tensor]:
    folder = worlds.stage_folder(Path(root), "instruct")
    return safetensors.torch.load_file(folder / "result" / "model.safetensors")


def check_same(folder: StageFolder) -> None:
    """Compare losses and weights with those of the uninterrupted run of one process."""
    single = worlds.stage_folder(Path("one"), "instruct")
    expected, found = worlds.series(single), worlds.series(folder.path)
    assert sorted(found) == sorted(expected) == list(range(ranks.NUM_STEPS))
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=ranks.TOLERANCE), step
    ours, theirs = weights(folder.path.parents[2].name), weights("one")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ranks.TOLERANCE)


def test_a_cell_runs_from_training_to_the_report(world: World) -> None:
    folders = {kind: worlds.stage_folder(Path("one"), kind) / "result" for kind in (
        "instruct", "evaluate", "backbone", "retention")}  # fmt: skip
    assert sorted(path.name for path in Path("one/store").iterdir()) == sorted(folders)
    report = (folders["instruct"] / "freeze_report.txt").read_text()
    tower, connector, language_model = (line.split() for line in report.splitlines()[1:4])
    assert tower[1] == "0"
    assert connector[2] == language_model[2] == "0"
    trained = weights("one")
    assert any(".visual.merger." in name for name in trained)
    assert any(".visual.deepstack_merger_list." in name for name in trained)
    assert not any(".visual.blocks." in name for name in trained)
    before, after = (
        json.loads((folders[kind] / "retention.json").read_text())["text:text_eu"]["value"]
        for kind in ("backbone", "retention")
    )
    assert before != after
    checks = json.loads((folders["evaluate"] / "canaries.json").read_text())
    assert checks["num_changed"] == 0
    assert next(Path("one/grids").rglob("report.html")).is_file()
    assert world.node("instruct").stage.model.ready_made.path == "data/vlm"


def test_a_killed_training_resumes_to_identical_bits(world: World) -> None:
    folder = ranks.prepare(world, "instruct", root="killed", devices=1)
    process = ranks.start(world, folder)
    worlds.wait_for_step(folder.path, 7, is_alive=lambda: process.poll() is None, since=0.0)
    process.send_signal(signal.SIGKILL)
    worlds.finish(process)
    saved = latest_checkpoint(folder.checkpoints)
    assert saved is not None
    assert 0 < saved.step < ranks.NUM_STEPS
    ranks.run_to_the_end(world, folder)
    found, expected = weights("killed"), weights("one")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    check_same(folder)


def export(root: str, target: Path, *settings: str) -> Any:
    """Export the cell, and return what was exported: the trained model and its chat."""
    more = ("--set", *settings) if settings else ()
    words = ["--exp", "mix_ablation", "--profile", ready.PROFILE, "--root", root, *more]
    words += ["--run", ready.CELL, "--to", "hf", str(target)]
    assert main(words) == 0
    request = request_of(build_parser().parse_args(words))
    (cell,) = find_cells(make_plan(request), [ready.CELL], root=request.root)
    return load_cell(cell, torch.device("cpu"))


def check_same_model(folder: Path, parts: Any) -> None:
    """Compare an export in plain transformers with the trained model: ids, logits, answers."""
    stock, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    expected = dict(parts.model.stock.named_parameters())
    for name, parameter in stock.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    turn = Turn(role=Role.USER, content="<image>\nZer da hau?")
    questions = [
        VisualQuestion(turns=(turn,), image=ready.sized_image(i), max_new_tokens=8)
        for i in range(10)
    ]
    theirs = HuggingFaceAnswerer(str(folder), batch_size=4).answer(questions)
    ours = make_answerer(parts, batch_size=10, limits=ReplyLimits()).answer(questions)
    assert [reply.text for reply in theirs] == [reply.text for reply in ours]
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.chat_template == parts.chat.processor.chat_template


def test_an_export_is_the_trained_model(world: World) -> None:
    parts = export("one", Path("exported"), "retention.tasks=[text:text_eu]")
    check_same_model(Path("exported"), parts)
    assert "ready-made" in Path("exported/README.md").read_text()
    assert (world.folder / "exported" / "generation_config.json").is_file()


def test_adapters_and_a_trained_tower(world: World) -> None:
    code, output = worlds.run(world.folder, ready.grid_arguments("lora", "--set", *LORA))
    assert code == 0, output
    trained = weights("lora")
    tower = [name for name in trained if ".visual." in name]
    assert tower
    assert not any("merger" in name for name in tower)
    assert all("lora_" in name for name in trained if name not in tower)
    check_same_model(Path("adapted"), export("lora", Path("adapted"), *LORA))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("instruct.prompt_style=shared_prefix", "set it to chat"),
        ("cell.stages=both", "set it to instruct_only"),
        ("backbones.vlm.template=embedded", "set it to own"),
        ("instruct.compute.strategy=fsdp2", "set it to ddp"),
        ("trainer.precision=float8-mixed", "set it to"),
        ("model.family=composed", "set model.family=hf"),
        ("model.ready_made.min_pixels=9 model.ready_made.max_pixels=4", "exchange them"),
        ("model.ready_made.max_pixels=0", "at least 1"),
    ],
)
def test_unsupported_settings(
    world: World, settings: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.run import main as run_main

    assert run_main([*ready.grid_arguments("none", "--set", *settings.split())]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert world.folder.is_dir()
