"""The GPU benchmark: its count of operations, its data, its bookkeeping, on a CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_step import __main__ as gpu_step
from benchmarks.gpu_step import report
from benchmarks.gpu_step.data import mixture_of, write_sources
from benchmarks.gpu_step.flops import Work, flop_model, peak_of, work_of
from benchmarks.gpu_step.model import TINY, build_ours, make_chat, make_transform, num_patches
from benchmarks.gpu_step.ours import BEST, Plan
from configuration.run_config import ALIGN_POLICY, INSTRUCT_POLICY
from core.chat.format import PromptStyle
from core.chat.tokens import PADDING_DOCUMENT
from core.samples import MicroBatch
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import VlmModule

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> MicroBatch:
    """A micro-batch of stage 2 from the real data path: images with branches, and texts."""
    folder = tmp_path_factory.mktemp("data")
    stream = StreamConfig(
        mixture=mixture_of(write_sources(folder, TINY), TINY, 2),
        prompt_style=PromptStyle.SHARED_PREFIX,
        micro_batch_tokens=TINY.micro_batch_tokens,
        row_tokens=TINY.row_tokens,
    )
    data = MixtureDataModule(
        stream,
        chat=make_chat(TINY),
        num_steps=1,
        cache_dir=folder / "cache",
        transform=make_transform(TINY),
    )
    (step,) = data.train_dataloader()
    return step.micro_batches[0]


@pytest.mark.slow
@pytest.mark.parametrize("is_stage_2", [False, True])
def test_operations_are_those_that_torch_counts(batch: MicroBatch, *, is_stage_2: bool) -> None:
    """On dense work: torch counts padding and masked pairs, so the work counted here is dense."""
    model = build_ours(TINY, make_chat(TINY), CPU).float()
    # Its own kernel's matrix products are seen by the counter; SDPA's on a CPU are not.
    model.language_model.set_attn_implementation("eager")
    for block in model.tower.visual.transformer.resblocks:  # type: ignore[union-attr]
        block.attn.train()  # the fast path is one operation that the counter doesn't know
    policy = INSTRUCT_POLICY if is_stage_2 else ALIGN_POLICY
    module = VlmModule(model, policy=policy, optim=OptimConfig(lr=1e-3), num_steps=1)
    with FlopCounterMode(display=False) as counter:
        module(batch).backward()
    num_rows, num_tokens = batch.input_ids_BT.shape
    dense = Work(
        tokens=num_rows * num_tokens,
        loss_tokens=work_of([batch]).loss_tokens,
        pairs=num_rows * num_tokens**2,
        images=batch.num_images,
    )
    expected = counter.get_total_flops()
    assert flop_model(model).step(dense, is_stage_2=is_stage_2) == pytest.approx(expected, rel=0.03)


def test_the_paper_s_shape_costs_what_its_size_says() -> None:
    """Llama-3.1-8B has 6.98 G weights in its blocks' matrices and 0.525 G in its head."""
    flops = flop_model(build_ours(gpu_step.SHAPES["8b"], make_chat(TINY), torch.device("meta")))
    assert flops.block_weights == pytest.approx(6.98e9, rel=1e-3)
    assert flops.head_weights == 128256 * 4096
    # CLIP ViT-L/14-336 is 0.381e12 operations an image with all 24 blocks; one is left out.
    assert 2 * flops.tower_per_image == pytest.approx(0.381e12 * 23 / 24, rel=0.03)


def test_work_counts_what_may_be_seen() -> None:
    """Two documents, one with two branches, and padding."""
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, PADDING_DOCUMENT]])
    work = work_of(
        [
            MicroBatch.of_rows(
                input_ids_BT=torch.zeros_like(documents),
                labels_BT=torch.tensor([[-100, -100, 5, 5, -100, 5, -100]]),
                position_ids_BT=torch.zeros_like(documents),
                document_ids_BT=documents,
                branch_ids_BT=torch.tensor([[0, 0, 1, 2, 0, 0, 0]]),
                image_token_id=7,
            )
        ]
    )
    # 1 + 2 of the prefix, 3 of either branch, 1 + 2 of the second document.
    assert work == Work(tokens=6, loss_tokens=3, pairs=12, images=0)


def test_peaks_are_found_by_the_driver_s_names() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H200") == 989e12
    assert peak_of("cpu") is None


def test_the_made_up_language_has_one_token_a_word() -> None:
    chat = make_chat(TINY)
    assert len(chat.tokenizer("w1 w2 w399").input_ids) == 3
    assert chat.tokenizer.unk_token_id not in chat.tokenizer("<|eot_id|>\n\nw1 w2").input_ids
    assert chat.num_image_tokens == num_patches(TINY) == 16


def _plan(folder: Path) -> tuple[Plan, gpu_step.Bench]:
    plan = Plan(stage=1, device=CPU, num_warm=1, num_timed=1, num_workers=0, cache=folder / "c")
    sources = write_sources(folder, TINY)
    chat = make_chat(TINY)
    bench = gpu_step.Bench(shape=TINY, chat=chat, sources=sources, peak=None, deadline=float("inf"))
    return plan, bench


@pytest.mark.slow
def test_a_run_that_breaks_is_recorded_and_named(tmp_path: Path) -> None:
    plan, bench = _plan(tmp_path)

    def no_room() -> gpu_step.Timing:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken() -> gpu_step.Timing:
        raise ValueError("a kernel\nand its trace")

    memory, failure = (gpu_step.measure(run, plan, bench) for run in (no_room, broken))
    assert memory == {"status": "out of memory"}
    assert failure == {"status": "failed: ValueError: a kernel"}
    assert not gpu_step.has_failed({"stages": {"1": {"best": memory}}})
    assert gpu_step.has_failed({"stages": {"1": {"best": memory, "x": failure}}})
    assert gpu_step.has_failed({"stages": {"1": {}}})


@pytest.mark.slow
def test_the_baseline_goes_down_to_a_batch_that_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[int] = []

    def fits_four(batch_size: int, *_: object) -> str:
        tried.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "timing"

    monkeypatch.setattr(gpu_step, "run_hugging_face", fits_four)
    plan, bench = _plan(tmp_path)
    everything = plan, gpu_step.SHAPES["8b"], bench.chat, bench.sources
    assert gpu_step.run_baseline(*everything) == "timing"
    assert tried == [16, 8, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [("1", "best"), ("2", "32-bit optimizer")])
def test_the_whole_benchmark_runs_in_miniature(tmp_path: Path, stage: str, name: str) -> None:
    arguments = ["--shape", "tiny", "--device", "cpu", "--warm", "1", "--steps", "1"]
    arguments += ["--workers", "0", "--out", str(tmp_path), "--stages", stage]
    assert gpu_step.main([*arguments, "--levers", name, "hf trainer"]) == 0
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert content["device"] == "cpu"
    ours, theirs = content["stages"][stage][name], content["stages"][stage]["hf trainer"]
    assert ours["status"] == theirs["status"] == "ok"
    assert ours["mfu"] is None  # nobody knows this CPU's peak
    assert len(ours["losses"]) == len(theirs["losses"]) == 2
    assert ours["tokens_per_second"] > 0
    assert ours["density"] > 0.8


def test_the_best_setting_of_stage_2_fits_80_gigabytes() -> None:
    """Weights and gradients in bf16, moments in 8 bits, activations recomputed."""
    assert BEST[2].checkpoint_blocks == 1
    assert BEST[2].optimizer == "adamw_8bit"


def test_targets_are_met_by_the_fastest_setting() -> None:
    """The baseline, failed runs and other quantities do not count."""
    slow = {"status": "ok", "samples_per_second": 9.0, "tokens_per_second": 7000.0, "mfu": 0.31}
    fast = {"status": "ok", "samples_per_second": 8.0, "tokens_per_second": 8100.0, "mfu": 0.36}
    theirs = {"status": "ok", "samples_per_second": 3.0, "tokens_per_second": 9000.0, "mfu": 0.4}
    results = {"best": slow, "no checkpoint": fast, "hf trainer": theirs}
    results["checkpoint half"] = {"status": "out of memory"}
    ratio, target = report.verdict(2, results)
    assert ratio.startswith("stage 2: 3.00x")
    assert "8,100.0 with 'no checkpoint' (target 8,000, 36% MFU): met" in target
    assert report.verdict(1, {"best": slow})[0].endswith(
        "9.0 with 'best' (target 25, 31% MFU): MISSED"
    )
    assert report.verdict(1, {"best": {**slow, "mfu": None}}) == [], "not on an unknown device"
