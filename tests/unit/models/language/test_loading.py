"""Loading of weights for a device: main memory holds no copy of the model."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.language.language_model import LanguageModelConfig, load_language_model

_MIB = 1 << 20


def memory(name: str) -> int:
    """Return a value of the process status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 33 million weights in bfloat16."""
    path = tmp_path_factory.mktemp("language_model")
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=1 << 16,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.slow
def test_weights_for_a_device_do_not_pass_through_main_memory_as_a_whole(folder: Path) -> None:
    """The meta device takes the place of a GPU; float32 weights of a bfloat16 file are new."""
    config = LanguageModelConfig(path=str(folder))
    load_language_model(config, device=torch.device("meta"))  # imports, and the pages of the file
    peaks = {}
    for device in (torch.device("meta"), None):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = memory("VmRSS")
        model = load_language_model(config, device=device)
        peaks[device] = memory("VmHWM") - before
        assert {p.device.type for p in model.parameters()} == {"cpu" if device is None else "meta"}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    size = sum(p.numel() for p in model.parameters()) * 4
    assert size > 120 * _MIB
    assert peaks[None] >= size
    assert peaks[torch.device("meta")] < 0.65 * size  # half of it are pages of the mapped file
