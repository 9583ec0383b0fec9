"""Loading of sharded weights: uneven shapes, files of several parts."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

from core.errors import CheckpointError
from core.precision import Precision
from models.connector import ConnectorConfig, build_connector
from models.freezing import FreezePolicy, apply_freeze
from models.language.language_model import (
    LanguageModelConfig,
    empty_language_model,
    save_language_model,
)
from models.sharding import load_pretrained, materialise, shard_model, sharding_policy
from models.vlm import VisionLanguageModel

NUM_RANKS, RANK = 3, 2


@contextlib.contextmanager
def one_of_three() -> Iterator[DeviceMesh]:
    """Return the view of one rank of three, without communication."""
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=NUM_RANKS)
    try:
        yield init_device_mesh("cpu", (NUM_RANKS,))
    finally:
        dist.destroy_process_group()


def write_model(folder: Path, *, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=20,
        num_attention_heads=2,
        vocab_size=31,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    save_language_model(folder, model, dtype=torch.float32)
    return model


def split_files(folder: Path) -> None:
    """Split a file of weights into two and an index, as large models have them."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def sharded_model(folder: Path, mesh: DeviceMesh, *, learns: bool) -> VisionLanguageModel:
    language_model = empty_language_model(LanguageModelConfig(path=str(folder)))
    connector = build_connector(ConnectorConfig(), vision_width=8, model_width=16, seed=0)
    model = VisionLanguageModel(None, connector, language_model, image_token_id=3)
    apply_freeze(model, FreezePolicy(language_model=learns))
    shard_model(model, mesh, MixedPrecisionPolicy())
    materialise(model, torch.device("cpu"))
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_every_rank_loads_its_own_rows(tmp_path: Path, *, tied: bool) -> None:
    original = write_model(tmp_path, tied=tied)
    split_files(tmp_path)
    with one_of_three() as mesh:
        model = sharded_model(tmp_path, mesh, learns=True)
        load_pretrained(model.language_model, tmp_path)
        expected = dict(original.named_parameters())
        found = dict(model.language_model.named_parameters())
        assert found.keys() == expected.keys()
        for name, parameter in found.items():
            assert isinstance(parameter, DTensor), name
            rows = torch.chunk(expected[name].detach(), NUM_RANKS)
            mine = rows[RANK] if len(rows) > RANK else expected[name][:0]
            # Files hold float32 here, so equality is exact.
            torch.testing.assert_close(parameter.to_local(), mine.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_frozen_parts_are_replicated_and_buffers_keep_their_content(
    tmp_path: Path, *, tied: bool
) -> None:
    original = write_model(tmp_path, tied=tied)
    with one_of_three() as mesh:
        model = sharded_model(tmp_path, mesh, learns=False)
        load_pretrained(model.language_model, tmp_path)
        torch.testing.assert_close(model.language_model.state_dict(), original.state_dict())
        assert all(isinstance(p, DTensor) for p in model.connector.parameters())
        ours = dict(model.language_model.named_buffers())
        for name, buffer in original.named_buffers():
            torch.testing.assert_close(ours[name], buffer)


def test_missing_and_misshapen_weights_are_reported(tmp_path: Path) -> None:
    write_model(tmp_path, tied=False)
    with one_of_three() as mesh:
        model = sharded_model(tmp_path, mesh, learns=True)
        path = tmp_path / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        taken = tensors.pop("model.norm.weight")
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
            load_pretrained(model.language_model, tmp_path)
        safetensors.torch.save_file({**tensors, "model.norm.weight": taken[:-1].clone()}, path)
        with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' is \(15,\)"):
            load_pretrained(model.language_model, tmp_path)


def test_gradients_are_summed_in_float32() -> None:
    assert sharding_policy(Precision.FLOAT32) == MixedPrecisionPolicy()
    for precision in (Precision.BF16_MIXED, Precision.BF16_TRUE):
        assert sharding_policy(precision).reduce_dtype is torch.float32
    assert sharding_policy(Precision.BF16_MIXED).param_dtype is torch.bfloat16
