"""The table of ready-made classes: what counts as equal, and what is measured in a pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.model_classes.__main__ import OUT, faults, measure
from benchmarks.model_classes.forward import measure_forward
from benchmarks.model_classes.subjects import SUBJECTS
from benchmarks.model_classes.table import write_table
from tests.support.models.foreign_classes import write_checkpoint

EXPORT = {"logits": 1e-6, "answers": 20, "num_answers": 20, "distinct": 7}
ROW: dict[str, Any] = {
    "class": "Qwen3VLForConditionalGeneration", "documents": 5, "loss": 1e-8,
    "gradients": 2e-7, "ids": 40, "num_ids": 40, "resume": True, "lora_resume": True,
    "qlora_resume": True, "killed": {"step": 7, "resumed_at": 5, "equal": True},
    "two_ranks": {"loss": 1e-7, "weights": 2e-7},
    "exports": {"full": {"hf": EXPORT}, "lora": {"hf": EXPORT, "peft": EXPORT},
                "qlora": {"hf": EXPORT}},
}  # fmt: skip


def changed(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(json.dumps(ROW))  # copies what is shared
    inner = row
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return row


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("loss",), 2e-6, "loss"),
        (("gradients",), float("nan"), "gradients"),
        (("ids",), 39, "generated ids"),
        (("lora_resume",), False, "lora_resume"),
        (("killed", "equal"), False, "resume after SIGKILL"),
        (("two_ranks", "weights"), 2e-5, "weights of two ranks"),
        (("exports", "lora", "peft", "answers"), 19, "answers of peft (lora)"),
        (("exports", "qlora", "hf", "logits"), 1e-2, "logits of hf (qlora)"),
    ],
)
def test_every_inequality_is_reported(place: tuple[str, ...], value: Any, fault: str) -> None:
    assert faults("x", ROW) == []
    assert faults("x", changed(place, value)) == [f"x: {fault}"]
    assert "| 40 of 40 |" in write_table({"qwen3_vl": ROW})
    assert "**no**" in write_table({"qwen3_vl": changed(("resume",), False)})


def test_the_stored_table_has_no_fault() -> None:
    rows = json.loads(OUT.with_suffix(".json").read_text())
    assert {*rows} <= {*SUBJECTS}
    found = [fault for name, row in rows.items() for fault in faults(name, row)]
    assert not found
    assert OUT.with_suffix(".md").read_text() == write_table(rows)


def test_a_damaged_weight_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement itself: equal as it is, and unequal once training loads other weights."""
    folder = write_checkpoint("qwen2_vl", tmp_path / "vlm")
    row = {**ROW, **measure_forward(folder)}
    assert faults("x", row) == []

    from benchmarks.model_classes import forward

    load = forward.load_ready_made

    def damaged(source: Any) -> Any:
        model = load(source)
        next(p for n, p in model.named_parameters() if "merger" in n).data.add_(0.05)
        return model

    monkeypatch.setattr(forward, "load_ready_made", damaged)
    assert "x: loss" in faults("x", {**ROW, **measure_forward(folder)})


@pytest.mark.slow
def test_a_class_in_stage_runs_is_equal_to_its_references() -> None:
    """Interrupted, killed, on two ranks, with adapters, exported in every format, reloaded."""
    row = measure("idefics3")
    assert faults("idefics3", row) == [], row
