"""Memory of a training step on fake tensors, and the planner's formulas for it."""

import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import memory_trace
from benchmarks.memory_trace import Setting
from configuration.grid_request import GridRequest
from core.precision import Precision
from experiments import run
from experiments.run_steps.planning import make_plan
from models.accounting.kept import block_memory
from models.accounting.live_memory import LiveMemory
from models.accounting.shapes import EmptyVlm
from models.connector import ConnectorConfig, empty_connector
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig
from models.language.blocks import decoder_blocks
from models.language.float8 import has_torchao
from models.vlm import VisionLanguageModel
from planner.trace.fake_model import fake_ranks
from reporting.dry_run.memory_trace import show_memory_traces

TRAINS = FreezePolicy(language_model=True)


@pytest.mark.slow
def test_storages_are_counted_once_while_they_live() -> None:
    with FakeTensorMode():
        weight = torch.empty(100)
        memory = LiveMemory()
        memory.attribute(weight, "weights")
        with memory:
            memory.enter("work", part="results")
            views = weight.view(10, 10).t()
            result = views * 2
            sums = result.sum(0)
            del result
            gc.collect()
            with memory.creating("gathered"):
                gathered = torch.empty(1000)
            gathered.untyped_storage().resize_(0)
            memory.enter("rest", part="results")
    assert (memory.live["weights"], memory.live["results"]) == (400, sums.nbytes)
    assert memory.live["gathered"] == 0, "FSDP2 frees memory by resizing storages"
    assert memory.peaks["work"] == {"weights": 400, "results": 40, "gathered": 4000}
    assert memory.peaks["rest"]["gathered"] == 0, "a phase begins with what is alive"
    torch.empty(1).untyped_storage().resize_(0)  # as before


def tiny_llama() -> LlamaForCausalLM:
    config = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
                         tie_word_embeddings=False, attn_implementation="sdpa")  # fmt: skip
    return LlamaForCausalLM(config)


def tiny_memory(**changes: Any) -> Any:
    with torch.device("meta"):
        connector = empty_connector(ConnectorConfig(), vision_width=8, model_width=64)
    model = VisionLanguageModel(None, connector, tiny_llama().to("meta"), image_token_id=0)
    vlm = EmptyVlm(model=model, tower=None, num_image_tokens=1)  # type: ignore[arg-type]
    settings = {"tuning": TuningConfig(), "policy": TRAINS, "precision": Precision.FLOAT32}
    settings |= {"is_sharded": False, "is_compiled": False, "num_tokens": 512}
    return block_memory(vlm.model, **(settings | changes))


def test_kept_bytes_are_those_of_a_real_block() -> None:
    """On the CPU, with real numbers: the same bytes but for the kernel of the attention."""
    real = tiny_llama()
    block = decoder_blocks(real)[0]
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    hidden_BTD = torch.randn(1, 512, 64, requires_grad=True)
    angles = real.model.rotary_emb(hidden_BTD, torch.arange(512)[None])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(hidden_BTD, position_embeddings=angles, attention_mask=None)
    found = sum(storage.nbytes() for storage in kept.values())
    assert tiny_memory().kept == pytest.approx(found, rel=0.1)


@pytest.mark.slow
def test_what_a_block_keeps_depends_on_precision_and_compilation() -> None:
    mixed = tiny_memory(precision=Precision.BF16_MIXED)
    sharded = tiny_memory(precision=Precision.BF16_MIXED, is_sharded=True)
    compiled = tiny_memory(precision=Precision.BF16_MIXED, is_compiled=True)
    frozen = tiny_memory(precision=Precision.BF16_MIXED, policy=FreezePolicy())
    assert mixed.inputs == 2 * sharded.inputs, "the residual stream of float32 weights is float32"
    assert mixed.kept > 1.25 * sharded.kept
    assert compiled.kept < 0.8 * mixed.kept, "min-cut recomputes cheap operations"
    assert frozen.kept < sharded.kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        Setting(stage="align", tuning="full", strategy="ddp", precision="bf16-mixed",
                checkpoint=0, is_compiled=True, count=4),
        Setting(stage="instruct", tuning="full", strategy="fsdp2", precision="bf16-mixed",
                checkpoint=0, is_compiled=False, count=4),
        Setting(stage="instruct", tuning="qlora", strategy="ddp", precision="bf16-true",
                checkpoint=1, is_compiled=False, count=2),
        pytest.param(
            Setting(stage="instruct", tuning="full", strategy="fsdp2", precision="float8-mixed",
                    checkpoint=0, is_compiled=True, count=8),
            marks=pytest.mark.skipif(not has_torchao(), reason="torchao is not installed")),
    ],
    ids=lambda setting: setting.name,
)  # fmt: skip
def test_planner_and_trace_agree_at_8b(setting: Setting, tmp_path: Path) -> None:
    """The real model, sharding, loss and optimizer; any wait for the GPU would raise."""
    row = memory_trace.measure(setting, tmp_path)
    assert row["ratio"] == pytest.approx(1.0, abs=memory_trace.LIMIT)
    assert row["trace_gib"] > 10


def test_every_supported_setting_is_in_the_table() -> None:
    names = [setting.name for setting in memory_trace.settings()]
    assert len(set(names)) == len(names) == (6 * 2 + 3) * 2 * 2 * 4
    row = {"setting": "a", "planner_gib": 1.0, "trace_gib": 1.02, "ratio": 0.98, "phase": "loss"}
    assert "1 settings; the largest difference is 2.0%" in memory_trace.write_table({"a": row})


def test_ranks_are_not_faked_next_to_real_ones() -> None:
    with fake_ranks(2), pytest.raises(RuntimeError, match="process of its own"), fake_ranks(2):
        pass
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_dry_run_shows_planner_and_trace(tmp_path: Path) -> None:
    overrides = ("trainer.devices=2", "instruct.compute.strategy=fsdp2")
    request = GridRequest(experiment="smoke", profile="small", overrides=overrides, is_dry_run=True)
    output = io.StringIO()
    show_memory_traces(Console(file=output, width=120), make_plan(request), root=tmp_path)
    text = output.getvalue()
    assert text.count("planner / trace = ") == 2, "one table for each training stage"
    assert "does not see the CUDA context" in text


@pytest.mark.slow
def test_the_option_prints_the_plan_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("reporting.dry_run.tables.show_plan", lambda *_, **__: shown.append("plan"))
    monkeypatch.setattr(
        "reporting.dry_run.memory_trace.show_memory_traces", lambda *_, **__: shown.append("traces")
    )
    assert run.main(["--exp", "smoke", "--profile", "small", "--trace-memory"]) == 0
    assert shown == ["plan", "traces"], "nothing is trained"
