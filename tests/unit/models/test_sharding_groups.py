"""Groups of sharded weights on two real ranks: gradients of one process, and few collectives."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from core.samples import EncodedSample, MicroBatch, SampleRef
from datamodules.batches.collate import ReadySample, collate_micro_batch
from models.connector import ConnectorConfig, build_connector
from models.freezing import FreezePolicy, apply_freeze
from models.sharding import gather_tensor, reduce_gradients, shard_model
from models.vlm import VisionLanguageModel

NUM_RANKS, NUM_BLOCKS = 2, 2
NUM_GROUPS = NUM_BLOCKS + 3
"""Blocks, embeddings, output layer, and the root with connector and norm."""
CHUNK = 3
_START = "forkserver" if torch.version.cuda else "fork"
"""In builds for CUDA, autograd starts threads, which a forked process would lack."""
"""Far below the loss tokens of a micro-batch, so that there are several chunks."""


def make_model(*, tied: bool) -> VisionLanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=NUM_BLOCKS,
        intermediate_size=20,
        num_attention_heads=2,
        vocab_size=31,
        tie_word_embeddings=tied,
    )
    language_model = LlamaForCausalLM(config)
    connector = build_connector(ConnectorConfig(), vision_width=8, model_width=16, seed=0)
    model = VisionLanguageModel(None, connector, language_model, image_token_id=3)
    model.loss_chunk = CHUNK
    apply_freeze(model, FreezePolicy(language_model=True))
    return model


def make_batch(seed: int, *, has_image: bool) -> MicroBatch:
    rng = np.random.default_rng(seed)
    ids_T = rng.integers(4, 31, size=14 + seed)
    ids_T[1:3] = 3 if has_image else 4
    encoded = EncodedSample(
        input_ids_T=ids_T,
        loss_mask_T=np.arange(ids_T.size) > 3,
        branch_ids_T=np.zeros(ids_T.size, dtype=np.int64),
    )
    ref = SampleRef(
        position=seed,
        source="s",
        language="eu",
        key=f"k{seed}",
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    image = torch.from_numpy(rng.standard_normal((2, 8), dtype=np.float32)) if has_image else None
    sample = ReadySample(ref=ref, encoded=encoded, image=image)
    return collate_micro_batch([[sample]], pad_token_id=0, image_token_id=3, is_features=True)


def batches_of(rank: int) -> list[MicroBatch]:
    """Two micro-batches of a rank, of different lengths; the last one has no image."""
    return [make_batch(2 * rank, has_image=True), make_batch(2 * rank + 1, has_image=False)]


def backward(
    model: VisionLanguageModel, batches: Sequence[MicroBatch], *, once_per_step: bool = False
) -> None:
    for index, batch in enumerate(batches):
        if isinstance(model, FSDPModule):
            is_last = index == len(batches) - 1
            reduce_gradients(model, is_last=is_last, once_per_step=once_per_step)
        model(batch).loss_sum.backward()


def gradients(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = gather_tensor(parameter.grad).clone()
    return found


class Collectives(TorchDispatchMode):
    """Counter of collective operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func.namespace == "c10d":
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def train_on(rank: int, folder: Path, case: dict[str, Any]) -> None:
    """Run one step on one of the ranks, twice; store gradients and collectives of the second."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), NUM_RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_RANKS)
    shape, names = ((NUM_RANKS,), None) if not case["hsdp"] else ((NUM_RANKS, 1), ("r", "s"))
    mesh: DeviceMesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    model = make_model(tied=case["tied"])
    shard_model(model, mesh, MixedPrecisionPolicy())
    for _ in range(2):
        model.zero_grad()
        with Collectives() as collectives:
            backward(model, batches_of(rank), once_per_step=case["once"])
    result = {"gradients": gradients(model), "counts": dict(collectives.counts)}
    if rank == 0:
        torch.save(result, folder / "result.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"tied": False, "hsdp": False, "once": False},
        {"tied": False, "hsdp": False, "once": True},
        {"tied": True, "hsdp": False, "once": False},
        {"tied": False, "hsdp": True, "once": False},
    ],
    ids=["groups", "reduced-once", "tied", "hsdp"],
)
def test_groups_have_the_gradients_of_one_process(tmp_path: Path, case: dict[str, Any]) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    mp.start_processes(train_on, (tmp_path, case), NUM_RANKS, start_method=_START)
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    plain = make_model(tied=case["tied"])
    for rank in range(NUM_RANKS):
        backward(plain, batches_of(rank))
    expected = {name: grad / NUM_RANKS for name, grad in gradients(plain).items()}
    torch.testing.assert_close(found["gradients"], expected, rtol=1e-5, atol=1e-6)

    num_groups = NUM_GROUPS - 2 if case["tied"] else NUM_GROUPS
    num_batches = 2
    counts = found["counts"]
    if case["hsdp"]:  # one reduction between the replicas of each group in a step
        assert counts["allreduce_"] == num_groups
        return
    # Blocks are gathered again in the backward pass; chunks of the loss gather nothing.
    gathers = num_batches * (num_groups + NUM_BLOCKS)
    assert counts["_allgather_base_"] == gathers
    assert counts["_reduce_scatter_base_"] == num_groups * (1 if case["once"] else num_batches)
