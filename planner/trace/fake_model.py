"""The model and micro-batch of a training stage on fake tensors, built by the real code."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from core.samples import EncodedSample, MicroBatch, SampleRef
from datamodules.batches.collate import ReadySample, RowLayout, collate_micro_batch
from models.accounting.compiled_block import partition_blocks
from models.accounting.fake_model import fill_with_fakes
from models.accounting.shapes import EmptyVlm
from models.language import attention
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import checkpoint_activations
from models.sharding import shard_model, sharding_policy
from models.vlm import VisionLanguageModel
from planner.training_fields import TrainingFields
from planner.workload import Load

_IMAGE_TOKEN, _TEXT_TOKEN = 0, 1
_ROW_MULTIPLE = 128
"""As on a GPU (`pipeline.trainer.row_layout`)."""


@contextlib.contextmanager
def fake_ranks(count: int) -> Iterator[DeviceMesh]:
    """Provide a device mesh of any number of ranks, of which only this process exists.

    Raises:
        RuntimeError: If torch.distributed is already in use in this process.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("torch.distributed is in use; trace the memory in a process of its own")
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()


def fake_model(
    stage: TrainingFields,
    vlm: EmptyVlm,
    mode: FakeTensorMode | torch.device,
    mesh: DeviceMesh,
    *,
    num_blocks: int,
) -> VisionLanguageModel:
    """Turn a stage's model on the meta device into a fake one, in the order of its real assembly.

    Args:
        stage: Training stage.
        vlm: Model of the stage on the meta device, which is changed.
        mode: Mode of the fake tensors; a device makes real tensors without content.
        mesh: Ranks over which a sharded strategy shards.
        num_blocks: Number of decoder blocks to keep.
    """
    model, compute = vlm.model, stage.compute
    fill_with_fakes(
        model,
        mode,
        num_blocks=num_blocks,
        tuning=stage.tuning,
        policy=stage.policy,
        precision=stage.precision,
    )
    use_packed_attention(model.language_model, compute.attention)
    model.attention = compute.attention
    model.loss_chunk = compute.loss_chunk
    checkpoint_activations(model.language_model, every=compute.checkpoint_blocks)
    if compute.compile_blocks:
        partition_blocks(model.language_model)
    if compute.strategy.is_sharded:
        with mode:
            shard_model(model, mesh, sharding_policy(stage.precision))
    return model.train()


def fake_micro_batch(
    stage: TrainingFields, vlm: EmptyVlm, load: Load, mode: FakeTensorMode | torch.device
) -> MicroBatch:
    """Build a full micro-batch with the mean numbers of images and loss tokens of a stage.

    If a device is passed instead of a mode, the tensors are real.
    """
    row_tokens = stage.stream.row_tokens
    num_rows = max(1, stage.stream.micro_batch_tokens // row_tokens)
    per_row = max(1, round(row_tokens / max(load.document_tokens, 1.0)))
    shares = load.num_images / load.num_tokens, load.num_loss_tokens / load.num_tokens
    num_images, num_loss_tokens = (round(num_rows * row_tokens * share) for share in shares)
    tower, is_features = vlm.tower, vlm.model.tower is None
    size = tower.transform.size
    pixels, features = (3, size, size), (tower.num_image_tokens, tower.width)
    image = torch.zeros(features) if is_features else torch.zeros(pixels, dtype=torch.uint8)
    documents = [
        fake_document(
            length=row_tokens // per_row,
            image=image if index < num_images else None,
            num_image_tokens=vlm.num_image_tokens,
            num_loss_tokens=round(num_loss_tokens / (num_rows * per_row)),
        )
        for index in range(num_rows * per_row)
    ]
    rows = [documents[start : start + per_row] for start in range(0, len(documents), per_row)]
    is_end_to_end = stage.compute.attention is not AttentionKind.MASK
    micro_batch = collate_micro_batch(
        rows,
        pad_token_id=_TEXT_TOKEN,
        image_token_id=_IMAGE_TOKEN,
        is_features=is_features,
        layout=RowLayout(is_end_to_end=is_end_to_end, multiple=_ROW_MULTIPLE),
    )
    if isinstance(mode, torch.device):
        return micro_batch.to(mode)
    fakes: dict[str, Any] = {
        name: mode.from_tensor(tensor) for name, tensor in micro_batch.tensors().items()
    }
    return dataclasses.replace(micro_batch, **fakes)


@contextlib.contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """Choose the attention kernel as on a GPU; without one, fake tensors are on the CPU.

    Flex attention keeps what the varlen kernel keeps: its inputs, its output and one number for
    each head and token.
    """

    def choose(kind: AttentionKind, *_: Any, **__: Any) -> AttentionKind:
        return kind if kind is AttentionKind.MASK else AttentionKind.VARLEN

    real, attention.choose_kernel = attention.choose_kernel, choose
    try:
        yield
    finally:
        attention.choose_kernel = real


def fake_document(
    *,
    length: int,
    image: torch.Tensor | dict[str, torch.Tensor] | None,
    num_image_tokens: int,
    num_loss_tokens: int,
    tokens: tuple[int, int] = (_TEXT_TOKEN, _IMAGE_TOKEN),
) -> ReadySample:
    """Build a document that begins with its image and ends with its answer.

    Args:
        length: Tokens of the document.
        image: Features, pixels, or the inputs of a ready-made model; None for text alone.
        num_image_tokens: Visual tokens of the image.
        num_loss_tokens: Tokens of the answer.
        tokens: Ids of a text token and of the placeholder.
    """
    text_token, image_token = tokens
    ids_T = np.full(length, text_token, dtype=np.int64)
    if image is not None:
        ids_T[:num_image_tokens] = image_token
    mask_T = np.arange(length) >= length - num_loss_tokens
    ref = SampleRef(
        position=0, source="", language="", key="", num_tokens=length,
        num_loss_tokens=num_loss_tokens,
    )  # fmt: skip
    branches_T = np.zeros(length, dtype=np.int64)
    encoded = EncodedSample(input_ids_T=ids_T, loss_mask_T=mask_T, branch_ids_T=branches_T)
    return ReadySample(ref=ref, encoded=encoded, image=image)
