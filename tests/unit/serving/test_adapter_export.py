"""Adapters of ready-made models alone: plain transformers adds them to the model they belong to."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForImageTextToText

from core.errors import CheckpointError, ConfigError
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig, TuningKind
from models.ready_made.loading import ReadyMadeSource
from pipeline.answerers import make_answerer
from pipeline.assemble_ready_made import ReadyMadeParts, assemble_ready_made
from serving.adapter_export import check_adapter, check_adapter_export, write_adapter
from serving.export_check import LOGIT_TOLERANCE
from tests.support.models.foreign_classes import write_checkpoint
from tests.support.models.ready_made import PACKED, encode_image

LORA = TuningConfig(kind=TuningKind.LORA, rank=2, alpha=4.0, dropout=0.0)
_SIZES = ((40, 32), (64, 30), (24, 72), (50, 50))


def train(folder: Path, policy: FreezePolicy) -> ReadyMadeParts:
    """Return a model whose trained weights have moved, as after a training."""
    parts = assemble_ready_made(ReadyMadeSource(path=str(folder)), tuning=LORA, policy=policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    parts.model.eval()
    return parts


def export(parts: ReadyMadeParts, checkpoint: Path, folder: Path) -> float:
    source = ReadyMadeSource(path=str(checkpoint))
    folder.mkdir()
    write_adapter(folder, parts, source=source, tuning=LORA, dtype=torch.float32)
    return check_adapter(folder, parts, source).logits


def questions() -> list[VisualQuestion]:
    turn = Turn(role=Role.USER, content="<image>\nZer da hau?")
    return [
        VisualQuestion(turns=(turn,), image=encode_image(size), max_new_tokens=6) for size in _SIZES
    ]


@pytest.mark.parametrize("name", PACKED)
def test_plain_transformers_answers_with_the_adapters(name: str, tmp_path: Path) -> None:
    """The connector is trained fully, except where PEFT can't store it (see below)."""
    checkpoint = write_checkpoint(name, tmp_path / "vlm")
    policy = FreezePolicy(connector=name != "llava_onevision", language_model=True)
    parts = train(checkpoint, policy)
    assert export(parts, checkpoint, tmp_path / "out") <= LOGIT_TOLERANCE
    state = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    trained = [p for p in parts.model.parameters() if p.requires_grad]
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in trained)

    ours = make_answerer(parts, batch_size=4, limits=ReplyLimits()).answer(questions())
    theirs = HuggingFaceAnswerer(str(tmp_path / "out")).answer(questions())
    assert [reply.text for reply in ours] == [reply.text for reply in theirs]
    before = HuggingFaceAnswerer(str(checkpoint)).answer(questions())
    assert [reply.text for reply in before] != [reply.text for reply in theirs]


def test_a_trained_encoder_is_exported_with_frozen_parts_left_out(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("qwen3_vl", tmp_path / "vlm")
    parts = train(checkpoint, FreezePolicy(tower=True, connector=False, language_model=True))
    assert export(parts, checkpoint, tmp_path / "out") <= LOGIT_TOLERANCE
    state = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert any(".visual.blocks." in name for name in state)
    assert not any("merger" in name for name in state)


def test_a_weight_outside_of_a_module_is_an_error(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llava_onevision", tmp_path / "vlm")
    parts = train(checkpoint, FreezePolicy(connector=True, language_model=True))
    with pytest.raises(ConfigError, match=r"image_newline' was trained, .* use --to hf"):
        export(parts, checkpoint, tmp_path / "out")


def test_damaged_adapters_are_noticed(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("qwen2_vl", tmp_path / "vlm")
    parts = train(checkpoint, FreezePolicy(connector=True, language_model=True))
    export(parts, checkpoint, tmp_path / "out")
    source, path = ReadyMadeSource(path=str(checkpoint)), tmp_path / "out/adapter_model.safetensors"
    whole = safetensors.torch.load_file(path)

    def check(state: dict[str, torch.Tensor]) -> None:
        safetensors.torch.save_file(state, path, metadata={"format": "pt"})
        check_adapter(tmp_path / "out", parts, source)

    lost = next(name for name in whole if "lora_B" in name)
    with pytest.raises(CheckpointError, match="can't load the adapters completely"):
        check({name: value for name, value in whole.items() if name != lost})
    with pytest.raises(CheckpointError, match="differ by"):
        check({**whole, lost: whole[lost] + 0.5})
    check(whole)


def test_the_files_do_not_depend_on_the_run(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("qwen2_vl", tmp_path / "vlm")
    parts = train(checkpoint, FreezePolicy(connector=True, language_model=True))
    export(parts, checkpoint, tmp_path / "out")
    content: dict[str, Any] = json.loads((tmp_path / "out/adapter_config.json").read_text())
    for key in ("target_modules", "modules_to_save"):
        assert content[key] == sorted(content[key]) != []
    assert content["base_model_name_or_path"] == str(checkpoint)
    assert (tmp_path / "out" / "generation_config.json").is_file()
    assert content["modules_to_save"] == ["model.visual.merger"]
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert any("lora_A" in name for name, _ in stock.named_parameters())


@pytest.mark.parametrize(
    ("kind", "is_ready_made", "message"),
    [
        (TuningKind.FULL, True, "trains no adapters; use --to hf"),
        (TuningKind.QLORA, True, "adapters of 4-bit weights"),
        (TuningKind.LORA, False, "exports adapters of ready-made models"),
    ],
)
def test_cells_without_adapters_of_their_own(
    kind: TuningKind, is_ready_made: bool, message: str
) -> None:
    check_adapter_export(LORA, is_ready_made=True)
    with pytest.raises(ConfigError, match=message):
        check_adapter_export(TuningConfig(kind=kind), is_ready_made=is_ready_made)
