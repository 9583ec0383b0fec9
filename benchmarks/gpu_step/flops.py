"""Floating-point operations of a training step, and the peak throughput of GPUs.

Counted: matrix products, two operations per multiply-add. Not counted: norms, softmax, optimizer,
recomputation in the backward pass (so this is MFU, not HFU), padding, logits of positions
without a label, attention between positions that must not see each other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.samples import MicroBatch
from models.language.attention import document_mask
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer
from models.vlm import VisionLanguageModel

PEAK_DENSE_BF16 = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
}
"""Operations per second without sparsity, from NVIDIA's data sheets (H100 is the SXM card)."""


def peak_of(device_name: str) -> float | None:
    """Return the peak throughput of a GPU, or None if the table does not list it."""
    fitting = [name for name in PEAK_DENSE_BF16 if all(w in device_name for w in name.split())]
    return PEAK_DENSE_BF16[max(fitting, key=len)] if fitting else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Work of a batch, independent of the implementation."""

    tokens: int = 0
    """Number of positions without padding."""
    loss_tokens: int = 0
    """Number of positions with a label."""
    pairs: int = 0
    """Number of (query, key) pairs in which the query attends to the key."""
    images: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Add the work of two batches."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in FIELDS}
        return Work(**sums)


FIELDS = dataclasses.fields(Work)


def work_of(batches: Sequence[MicroBatch]) -> Work:
    """Count the work of micro-batches on the CPU."""
    total = Work()
    for batch in batches:
        is_token_BT = batch.document_ids_BT != PADDING_DOCUMENT
        seen_BTT = document_mask(
            batch.document_ids_BT, batch.branch_ids_BT, has_branches=batch.has_branches
        )[:, 0]
        total += Work(
            tokens=int(is_token_BT.sum()),
            loss_tokens=int((batch.labels_BT[:, 1:] != IGNORE_INDEX).sum()),
            pairs=int((seen_BTT & is_token_BT[:, :, None]).sum()),
            images=batch.num_images,
        )
    return total


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FlopModel:
    """Multiply-adds per unit of work, derived from the shapes of a model's weights."""

    block_weights: int
    """Number of matrix weights in all decoder blocks (P)."""
    head_weights: int
    """Width times vocabulary."""
    attention_width: int
    """Layers times heads times width of a head."""
    connector_per_image: int
    tower_per_image: int

    def step(self, work: Work, *, is_stage_2: bool) -> float:
        """Return the operations of the forward and backward pass.

        Stage 1 needs no gradients of the language model's weights, so its matrices are used twice
        (forward, gradient of the input) and not three times. Attention's backward pass costs
        twice its forward pass in both stages. The tower only runs forward, and the connector's
        input needs no gradient.
        """
        times = 3 if is_stage_2 else 2
        matrices = self.block_weights * work.tokens + self.head_weights * work.loss_tokens
        attention = 3 * 2 * self.attention_width * work.pairs
        images = (2 * self.connector_per_image + self.tower_per_image) * work.images
        return 2.0 * (times * matrices + attention + images)


def flop_model(model: VisionLanguageModel) -> FlopModel:
    """Build the cost model of a Llama-like language model and an open_clip ViT."""
    config: Any = model.language_model.config
    head_width = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    num_tokens, tower = 0, 0
    if model.tower is not None:
        num_tokens, tower = model.tower.num_image_tokens, _tower_macs(model.tower.visual)
    return FlopModel(
        block_weights=sum(_matrices(block) for block in decoder_blocks(model.language_model)),
        head_weights=_matrices(decoder_and_output_layer(model.language_model)[1]),
        attention_width=config.num_hidden_layers * config.num_attention_heads * head_width,
        connector_per_image=_matrices(model.connector) * num_tokens,
        tower_per_image=tower,
    )


def _tower_macs(visual: Any) -> int:
    """Return the multiply-adds of one image through a ViT up to the second-to-last block."""
    blocks = visual.transformer.resblocks[:-1]
    patches = visual.grid_size[0] * visual.grid_size[1]
    positions = patches + 1
    attention = 2 * len(blocks) * visual.transformer.width * positions**2
    patching = visual.conv1.weight.numel() * patches
    return patching + sum(_matrices(block) for block in blocks) * positions + attention


def _matrices(module: torch.nn.Module) -> int:
    """Return the number of elements of all two-dimensional weights."""
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)
