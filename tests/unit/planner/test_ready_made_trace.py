"""Memory of training steps of ready-made models: on the meta device, and traced on fake ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from benchmarks import memory_trace
from benchmarks.memory_trace import Setting
from core.errors import ConfigError
from models.accounting.ready_made_shapes import empty_shaped_ready_made
from models.ready_made.loading import ReadyMadeSource, load_chat, load_shape
from models.ready_made.model_class import model_class
from planner.estimator import count_model
from planner.trace.ready_made import blank_image
from planner.trace.real_integers import RealIntegers
from tests.support.models.foreign_classes import write_checkpoint
from tests.support.models.ready_made import encode_image

TRACED = [
    setting
    for setting in memory_trace.ready_made_settings()
    if (setting.checkpoint, setting.count) == (1, 4)
    or (setting.checkpoint, setting.count, setting.model) == (0, 1, "qwen3_vl_2b")
]
"""Every model and tuning, and the smallest also with all activations kept."""
LIMIT = 0.1
"""Largest difference of planner and trace: the plan leaves out most of what the encoder needs."""
WEIGHTS = {"2B": 2_127_532_032, "4B": 4_437_815_808, "8B": 8_767_123_696}
"""Numbers of weights of the published checkpoints (model.safetensors.index.json)."""


@pytest.mark.parametrize("size", WEIGHTS)
def test_meta_models_have_the_published_number_of_weights(size: str) -> None:
    source = ReadyMadeSource(path=f"Qwen/Qwen3-VL-{size}-Instruct", revision="main")
    model = empty_shaped_ready_made(source)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.parameters()) == WEIGHTS[size]


@pytest.mark.slow
@pytest.mark.parametrize("setting", TRACED, ids=lambda setting: setting.name)
def test_planner_and_trace_agree(setting: Setting, tmp_path: Path) -> None:
    """The real class, its vision encoder and rotary axes, adapters, loss and optimizer."""
    row = memory_trace.measure(setting, tmp_path)
    assert row["ratio"] == pytest.approx(1.0, abs=LIMIT), row
    node, _ = memory_trace.stage_of(setting, tmp_path)
    stage: Any = node.stage
    counts = count_model(stage.model, stage.tuning)
    trained = counts.language_model if setting.tuning == "full" else counts.adapters
    gib = (trained + counts.connector) * 4 / 2**30
    assert row["traced"]["trained weights"] == pytest.approx(gib, rel=0.01, abs=0.01), row
    assert row["traced"]["optimizer"] == pytest.approx(2 * gib, rel=0.01, abs=0.01), row


def test_every_ready_made_model_is_in_the_table() -> None:
    names = [setting.name for setting in memory_trace.ready_made_settings()]
    assert len(set(names)) == len(names) == 3 * 2 * 2 * 4


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_blank_image_is_as_large_as_a_processed_one(name: str, tmp_path: Path) -> None:
    source = ReadyMadeSource(path=str(write_checkpoint(name, tmp_path / name)))
    rules, size = model_class(load_shape(source), name), (40, 32)
    blank = blank_image(rules, size, min_pixels=256, max_pixels=1024)  # those of its processor
    real = load_chat(source).encode_image(encode_image(size))
    assert blank["pixel_values"].shape == real["pixel_values"].shape
    assert blank["image_grid_thw"].prod() == real["image_grid_thw"].prod()


def test_other_classes_are_rejected(tmp_path: Path) -> None:
    source = ReadyMadeSource(path=str(write_checkpoint("idefics3", tmp_path / "vlm")))
    rules = model_class(load_shape(source), source.path)
    with pytest.raises(ConfigError, match="memory of idefics3 models can't be traced"):
        blank_image(rules, (640, 480), min_pixels=None, max_pixels=None)


def test_integers_stay_real_beside_fake_numbers() -> None:
    with FakeTensorMode() as mode, RealIntegers(mode):
        ids = torch.tensor([[3, 5, 5, 7]])
        is_image = ids == 5
        table = torch.empty(10, 4)
        assert isinstance(table, FakeTensor)
        assert is_image.sum().item() == 2
        assert torch.arange(3).tolist() == [0, 1, 2]
        embedded = torch.nn.functional.embedding(ids, table)
        assert isinstance(embedded, FakeTensor)
        assert embedded[is_image].shape == (2, 4), "as many rows as the mask selects"
        embedded[is_image] = torch.empty(2, 4)
        filled = embedded.masked_scatter(is_image[..., None], torch.empty(2, 4))
        assert filled.shape == (1, 4, 4)
