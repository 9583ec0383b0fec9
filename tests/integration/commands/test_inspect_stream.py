"""inspect_stream lists the samples of training in the same places, without a model."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.errors import ConfigError
from core.io.images import decode_image
from core.samples import Role, Sample, Turn
from datamodules.batches.step_dataset import StepDataset
from datamodules.inspection import stream_summary as stream_view
from datamodules.inspection.contact_sheet import SheetCell, first_question, write_sheet
from datamodules.mixture_datamodule import MixtureDataModule
from experiments import inspect_stream
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from tests.support import small_world as worlds
from tests.support.doubles import write_shard, write_source

ARGUMENTS = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, "--only", worlds.CELL)
NUM_STEPS, SAMPLES_PER_STEP = 60, 8


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a world with invalid weight files, so that loading them fails."""
    folder = worlds.build_world(tmp_path_factory.mktemp("pristine"))
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"no weights")
    return folder


@pytest.fixture
def world(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(pristine, tmp_path / "world")
    monkeypatch.chdir(folder)
    return folder


def open_module(*more: str, stage: str = "instruct") -> MixtureDataModule:
    args = inspect_stream.build_parser().parse_args([*ARGUMENTS, "--stage", stage, *more])
    node = inspect_stream.find_stage(make_plan(request_of(args)).graph, stage)
    return inspect_stream.open_stream(node, root=Path("results"))


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the output, without line breaks."""
    common = ARGUMENTS[:-2] if "--only" in arguments else ARGUMENTS
    code = inspect_stream.main([*common, *arguments])
    return code, " ".join("".join(capsys.readouterr()).split())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_the_plan_matches_the_batches_of_every_rank(
    world: Path, stage: str, world_size: int
) -> None:
    module = open_module(stage=stage)
    data = dataclasses.replace(module.data, transform=lambda _: torch.zeros(3, 2, 2))
    for step in (0, 7, NUM_STEPS - 1):
        samples = stream_view.place_samples(module.data, step, world_size=world_size)
        positions = [sample.planned.position for sample in samples]
        first = step * len(samples)
        assert positions == list(range(first, first + len(samples)))
        by_place: dict[tuple[int, int], list[stream_view.PlacedSample]] = {}
        for sample in sorted(samples, key=lambda s: (s.row, s.planned.position)):
            by_place.setdefault((sample.rank, sample.micro_batch), []).append(sample)
        for rank in range(world_size):
            dataset = StepDataset(data, num_steps=NUM_STEPS, rank=rank, world_size=world_size)
            for number, micro_batch in enumerate(dataset.step(step).micro_batches):
                planned = [
                    (
                        s.planned.position,
                        s.planned.source.name,
                        s.key,
                        s.planned.num_tokens,
                        s.num_loss_tokens,
                    )
                    for s in by_place.pop((rank, number), [])
                ]
                got = [
                    (ref.position, ref.source, ref.key, ref.num_tokens, ref.num_loss_tokens)
                    for ref in micro_batch.samples
                ]
                assert planned == got
        assert not by_place


@pytest.mark.parametrize("world_size", [1, 2])
def test_packing_matches_the_batches(world: Path, world_size: int) -> None:
    module = open_module()
    data = dataclasses.replace(module.data, transform=lambda _: torch.zeros(3, 2, 2))
    tokens, positions, numbers = 0, 0, []
    for rank in range(world_size):
        for batch in StepDataset(data, num_steps=9, rank=rank, world_size=world_size):
            tokens += sum(ref.num_tokens for mb in batch.micro_batches for ref in mb.samples)
            # A rank without a sample computes one position of padding, which no plan holds.
            positions += sum(mb.input_ids_BT.numel() for mb in batch.micro_batches if mb.samples)
            numbers.append(len(batch.micro_batches))
    packing = stream_view.packing(module.data, range(9), world_size=world_size)
    assert packing.num_steps == 9
    assert packing.density == pytest.approx(tokens / positions)
    assert packing.micro_batches_per_step == pytest.approx(sum(numbers) / len(numbers))


def test_packing_of_many_steps_is_computed_from_a_subset(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = open_module()
    monkeypatch.setattr(stream_view, "_MAX_PLANNED_STEPS", 7)
    assert stream_view.packing(module.data, range(NUM_STEPS), world_size=1).num_steps <= 7


def test_counts_match_the_samples(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_view, "_COUNT_CHUNK_STEPS", 4)
    module, steps = open_module(), range(3, 17)
    counts = stream_view.count_sources(module.data, steps)
    samples = [
        sample
        for step in steps
        for sample in stream_view.place_samples(module.data, step, world_size=1)
    ]
    assert set(counts) == {"instruct_en", "instruct_eu", "chat_eu", "text_eu"}
    for name, count in counts.items():
        own = [sample for sample in samples if sample.planned.source.name == name]
        assert count.num_samples == len(own) > 0
        assert count.num_tokens == sum(sample.planned.num_tokens for sample in own)
        assert count.num_loss_tokens == sum(sample.num_loss_tokens for sample in own)
        assert count.num_skipped == 0
    assert counts["instruct_en"].expected == pytest.approx(14 * 5 * 0.6)
    assert counts["chat_eu"].num_samples == counts["chat_eu"].expected == 14 * 2
    languages = stream_view.by_language(counts)
    assert languages["en"].num_samples == counts["instruct_en"].num_samples
    assert sum(c.num_samples for c in languages.values()) == 14 * SAMPLES_PER_STEP


def test_whole_epochs_have_the_requested_share(world: Path) -> None:
    """24 images at 5 per step are five epochs after 24 steps; 40 % of 24 is rounded to 10."""
    counts = stream_view.count_sources(open_module().data, range(24))
    assert counts["instruct_eu"].num_samples == 5 * 10
    assert counts["instruct_eu"].expected == pytest.approx(5 * 9.6)


@pytest.mark.slow
def test_the_command_lists_a_step_and_writes_its_images(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = command(capsys, "--at", "5", "--sheet", "sheet.png")
    assert code == 0, output
    for sample in stream_view.place_samples(open_module().data, 5, world_size=1):
        assert f"{sample.planned.position}" in output
        assert sample.key in output
    for part in (
        "step 5 of 60",
        "shares of step 5",
        "(world size 1): 2; density",
        "epochs completed",
    ):
        assert part in output
    assert "5 of 5 images written to sheet.png" in output
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        colours = sheet.convert("RGB").getcolors(maxcolors=1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_the_command_sums_a_range_of_steps(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = command(capsys, "--range", "0:24", "--world-size", "2")
    assert code == 0, output
    counts = stream_view.count_sources(open_module().data, range(24))
    for name, count in counts.items():
        assert name in output
        assert f"{count.num_tokens:,}" in output
    for part in ("shares of steps 0..23", "+2.0", "-2.0", "(world size 2): 1"):
        assert part in output
    assert "step 0 of 60" not in output


@pytest.mark.slow
def test_a_skipped_sample_is_listed_with_its_reason(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = []
    for i in range(24):
        key, content, image = worlds.image_sample(i)
        if i == 3:
            for record in content["instruct"].values():
                record["messages"][1]["content"] = " "
        samples.append((key, content, image))
    entry = write_shard(world / "data" / "train-000000.tar", samples)
    for record in ("caption", "instruct"):
        for tag in ("en", "eu"):
            name = f"{record}_{tag}"
            write_source(world / "data", name, [entry], language=tag, record=f"{record}.{tag}")
    tolerant = ("--set", "instruct.max_bad_fraction=0.1")
    data = open_module(*tolerant).data
    (step,) = {
        step
        for step in range(4)
        for sample in stream_view.place_samples(data, step, world_size=1)
        if sample.key == "image-00003"
    }
    code, output = command(capsys, *tolerant, "--at", str(step), "--sheet", "sheet.png")
    assert code == 0, output
    assert "empty answer" in output
    assert "4 of 5 images" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--exp", "mix_ablatoin"], ["experiment 'mix_ablatoin'", "'mix_ablation'"]),
        (["--profile", "tinny"], ["profile 'tinny'", "'tiny'"]),
        (["--only", "share41_txt"], ["cell 'share41_txt'", "share40_txt"]),
        (["--stage", "instrct"], ["stage 'instrct'", "'instruct'"]),
        (["--set", "instruct.num_step=5"], ["instruct.num_step", "num_steps"]),
        (["--at", "60"], ["step 60", "0..59"]),
        (["--at", "-1"], ["step -1", "0..59"]),
        (["--range", "50:61"], ["steps 50..60", "0..59"]),
        (["--only", "share4", "share6"], ["different 'instruct' stages", "share40_txt", "--only"]),
        (
            ["--exp", "stage_ablation", "--only", "instruct_only", "--stage", "align"],
            ["no cell has a stage 'align'", "--stage", "--exp"],
        ),
        (["--world-size", "0"], ["--world-size must be at least 1, got 0"]),
        (["--sheet", "sheet.jpg"], ["sheet.jpg", ".png"]),
        (["--range", "0:5", "--sheet", "a.png"], ["--sheet", "--at"]),
    ],
)
def test_invalid_arguments_are_reported_with_a_fix(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]
) -> None:
    code, output = command(capsys, *arguments)
    assert code == 2
    assert "error:" in output
    for part in expected:
        assert part in output


@pytest.mark.parametrize("text", ["5", "5:5", "a:b", ":3"])
def test_an_invalid_range_is_rejected(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        inspect_stream.build_parser().parse_args([*ARGUMENTS, "--range", text])
    assert f"'{text}' is not a range A:B" in capsys.readouterr().err


def test_the_first_question_of_a_record() -> None:
    def sample(*turns: tuple[Role, str]) -> Sample:
        return Sample(
            key="k",
            source="s",
            language="eu",
            parallel_id="k",
            turns=tuple(Turn(role=role, content=content) for role, content in turns),
            image=b"",
        )

    user, assistant = Role.USER, Role.ASSISTANT
    asked = sample((user, "<image>\nZer da?"), (assistant, "ilargia"), (user, "Eta hau?"))
    assert first_question(asked) == "Zer da? - ilargia"
    assert first_question(sample((user, "<image>"), (assistant, "ilargia"))) == "ilargia"
    assert first_question(sample((Role.TEXT, "kaixo"))) == "kaixo"


def test_a_broken_image_is_a_grey_square_on_the_sheet(tmp_path: Path) -> None:
    cells = [SheetCell(image=image, title="t", text="") for image in (worlds.image(0), b"broken")]
    write_sheet(tmp_path / "sheet.png", cells, decode_image)
    with Image.open(tmp_path / "sheet.png") as sheet:
        middle = (sheet.height // 4, sheet.width // 4, sheet.width * 3 // 4)
        whole, broken = (sheet.getpixel((x, middle[0])) for x in middle[1:])
    assert broken == (225, 225, 225) != whole
    with pytest.raises(ConfigError, match="no sample of this step has an image"):
        write_sheet(tmp_path / "none.png", [], decode_image)
