"""Attention within the documents of packed rows, by four equivalent kernels.

`mask` gives SDPA an explicit mask (any device), `documents` calls SDPA for one document after the
other (any device, no branches), `flex` skips tiles that are masked entirely, and `varlen` is flash
attention over documents of any length (no branches). One attention function is registered with the
language model and selects the kernel from the inputs of the batch.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.nn import functional

from core.errors import ConfigError
from core.samples import MicroBatch
from models.language.block_mask import block_mask
from models.language.generation import decoder_and_output_layer

if TYPE_CHECKING:  # slow imports that most runs do not need
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

_NAME = "irudimen_packed"


class AttentionKind(StrEnum):
    """Attention kernel for packed rows."""

    AUTO = "auto"
    """The fastest kernel that supports the device and the batch."""
    MASK = "mask"
    """SDPA with an explicit mask: any device, memory quadratic in the row length."""
    DOCUMENTS = "documents"
    """SDPA over each document: any device, for long rows; mask for micro-batches with branches."""
    FLEX = "flex"
    """Block-sparse flex attention (CUDA with Triton; rejected on a CPU)."""
    VARLEN = "varlen"
    """Flash attention over documents (CUDA, 16-bit); flex for micro-batches with branches."""


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """The documents of packed rows, laid one after the other."""

    lengths: list[int]
    """Tokens of every document; the padding of a row is one of them."""
    masks: Mapping[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    """Masks (L, L) by index of the documents that are not causal."""

    @classmethod
    def of(cls, micro_batch: MicroBatch) -> Self:
        """Return the documents of a micro-batch."""
        return cls(micro_batch.document_starts.diff().tolist())

    def mask(self, number: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """Return the boolean mask (L, L) of a document, or None if it is causal.

        Args:
            number: Index of the document.
            window: Number of positions that a query sees, itself included; None for all.
            device: Device of a new mask.
        """
        length, mask_LL = self.lengths[number], self.masks.get(number)
        if window is None or length <= window:
            return mask_LL
        places_L = torch.arange(length, device=device)
        distances_LL = places_L[:, None] - places_L
        return (distances_LL >= 0 if mask_LL is None else mask_LL) & (distances_LL < window)


def use_packed_attention(language_model: "PreTrainedModel", kind: AttentionKind) -> None:
    """Make a language model accept the result of `attention_inputs` for all kernels.

    Raises:
        ConfigError: If the model's layers do not use full causal attention.
    """
    if kind is AttentionKind.MASK:
        return
    config = language_model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kind is not AttentionKind.DOCUMENTS and types != {"full_attention"}:
        raise ConfigError(
            f"compute.attention={kind} supports full attention only, but "
            f"{type(language_model).__name__} has {sorted(types)}; use compute.attention=mask"
        )
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, packed_attention)
    decoder: Any = decoder_and_output_layer(language_model)[0]
    decoder.config._attn_implementation = _NAME


def attention_inputs(
    micro_batch: MicroBatch, kind: AttentionKind, dtype: torch.dtype, config: Any = None
) -> dict[str, Any]:
    """Return decoder arguments that separate the documents (and branches) of packed rows.

    Args:
        micro_batch: The rows.
        kind: Kernel.
        dtype: Type of additive masks.
        config: Configuration of the decoder, whose layers may have sliding windows.
    """
    device = micro_batch.document_ids_BT.device
    kind = choose_kernel(kind, device, dtype, has_branches=micro_batch.has_branches)
    if kind is AttentionKind.VARLEN:
        return {
            "attention_mask": None,
            "cu_seqlens": micro_batch.document_starts,
            "max_seqlen": micro_batch.longest_document,
        }
    if kind is AttentionKind.DOCUMENTS:
        return {"attention_mask": None, "documents": Documents.of(micro_batch)}
    if kind is AttentionKind.FLEX:
        return {"attention_mask": block_mask(micro_batch)}
    mask = document_mask(
        micro_batch.document_ids_BT,
        micro_batch.branch_ids_BT,
        has_branches=micro_batch.has_branches,
    )
    # An additive mask: every layer would convert a boolean one again (a tenth of a CPU step).
    return {"attention_mask": _by_layer_type(mask, micro_batch.position_ids_BT, dtype, config)}


def choose_kernel(
    kind: AttentionKind, device: torch.device, dtype: torch.dtype, *, has_branches: bool
) -> AttentionKind:
    """Choose the kernel for one micro-batch.

    Raises:
        ConfigError: If a CUDA kernel is requested on another device. torch has a CPU kernel for
            flex, but its results are wrong or NaN on processors without AVX-512 (torch 2.13).
    """
    if kind is AttentionKind.MASK:
        return kind
    if kind is AttentionKind.DOCUMENTS:
        return AttentionKind.MASK if has_branches else kind
    if device.type != "cuda":
        if kind is AttentionKind.AUTO:
            return AttentionKind.MASK
        raise ConfigError(
            f"compute.attention={kind} needs CUDA, but the batch is on {device.type}; use auto or "
            "mask"
        )
    if kind is AttentionKind.FLEX:
        return kind
    is_half = dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(device.type)
    return AttentionKind.VARLEN if is_half and not has_branches else AttentionKind.FLEX


def packed_attention(
    module: torch.nn.Module,
    query_BHTC: torch.Tensor,
    key_BGTC: torch.Tensor,
    value_BGTC: torch.Tensor,
    attention_mask: "torch.Tensor | BlockMask | None",
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention function for the Hugging Face registry; the result has shape (B, T, H, C).

    Under autocast with float32 weights, the rotary embedding leaves queries and keys in float32
    while values are 16-bit. The kernels take one type only and have no autocast rule of their own.
    """
    query_BHTC, key_BGTC = query_BHTC.to(value_BGTC.dtype), key_BGTC.to(value_BGTC.dtype)
    starts, longest = kwargs.pop("cu_seqlens", None), kwargs.pop("max_seqlen", 0)
    if starts is not None:
        return varlen_attention(
            query_BHTC, key_BGTC, value_BGTC, starts, longest, scale=kwargs.get("scaling")
        ), None
    documents = kwargs.pop("documents", None)
    if documents is not None:
        options = {"scale": kwargs.get("scaling"), "window": kwargs.get("sliding_window")}
        return attention_by_document(query_BHTC, key_BGTC, value_BGTC, documents, **options), None
    result: tuple[torch.Tensor, torch.Tensor | None]
    if attention_mask is None or isinstance(attention_mask, torch.Tensor):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        parts = (query_BHTC, key_BGTC, value_BGTC)
        result = sdpa_attention_forward(module, *parts, attention_mask, **kwargs)
        return result
    from transformers.integrations.flex_attention import flex_attention_forward

    result = flex_attention_forward(
        module, query_BHTC, key_BGTC, value_BGTC, attention_mask, **kwargs
    )
    return result


def varlen_attention(
    query_BHTC: torch.Tensor,
    key_BGTC: torch.Tensor,
    value_BGTC: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    *,
    scale: float | None,
) -> torch.Tensor:
    """Causal attention within every document of the concatenated rows; returns (B, T, H, C)."""
    from torch.nn.attention import varlen  # torch >= 2.10; CUDA only

    varlen_attn: Any = varlen.varlen_attn

    num_rows, num_heads, num_tokens, width = query_BHTC.shape
    supported = inspect.signature(varlen_attn).parameters  # the signature differs between releases
    options: dict[str, Any] = {"scale": scale}
    options |= {"window_size": (-1, 0)} if "window_size" in supported else {"is_causal": True}
    if (group := num_heads // key_BGTC.shape[1]) > 1:
        if "enable_gqa" in supported:
            options["enable_gqa"] = True
        else:
            key_BGTC, value_BGTC = (
                x.repeat_interleave(group, dim=1) for x in (key_BGTC, value_BGTC)
            )
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query_BHTC, key_BGTC, value_BGTC)]
    out_NHC: torch.Tensor = varlen_attn(*flat, starts, starts, longest, longest, **options)
    return out_NHC.view(num_rows, num_tokens, num_heads, width)


def attention_by_document(
    query_BHTC: torch.Tensor,
    key_BGTC: torch.Tensor,
    value_BGTC: torch.Tensor,
    documents: Documents,
    *,
    scale: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """Attention within every document of the concatenated rows; returns (B, T, H, C).

    Args:
        query_BHTC: Queries.
        key_BGTC: Keys, with as many heads as the queries or a divisor of their number.
        value_BGTC: Values, likewise.
        documents: The documents, which fill the rows.
        scale: Factor of the scores; None for the default of SDPA.
        window: Number of positions that a query sees, itself included; None for all.
    """
    num_rows, num_heads, num_tokens, width = query_BHTC.shape
    # The gradient of a split is one concatenation; a slice's would be as large as all rows.
    parts = [
        torch.split(x.transpose(1, 2).flatten(0, 1), documents.lengths)
        for x in (query_BHTC, key_BGTC, value_BGTC)
    ]
    outputs_LHC = []
    for number, document in enumerate(zip(*parts, strict=True)):
        mask_LL = documents.mask(number, window, query_BHTC.device)
        query_1HLC, key_1GLC, value_1GLC = (x_LHC.transpose(0, 1)[None] for x_LHC in document)
        output_1HLC = functional.scaled_dot_product_attention(
            query_1HLC,
            key_1GLC,
            value_1GLC,
            attn_mask=mask_LL,
            is_causal=mask_LL is None,
            scale=scale,
            enable_gqa=num_heads != key_BGTC.shape[1],
        )
        outputs_LHC.append(output_1HLC[0].transpose(0, 1))
    return torch.cat(outputs_LHC).view(num_rows, num_tokens, num_heads, width)


def _by_layer_type(
    mask_B1TT: torch.Tensor, position_ids_BT: torch.Tensor, dtype: torch.dtype, config: Any
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the additive mask, or one for each type of layer if some have a shorter window.

    The window counts positions in a document, as it does for the document alone.
    """
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    full = additive_mask(mask_B1TT, dtype)
    if window is None or mask_B1TT.shape[-1] <= window or types == {"full_attention"}:
        return full
    distances_BTT = position_ids_BT[:, :, None] - position_ids_BT[:, None, :]
    sliding = additive_mask(mask_B1TT & (distances_BTT < window)[:, None], dtype)
    if types == {"sliding_attention"}:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask to add to scores: 0 where attention is allowed, -inf elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def document_mask(
    document_ids_BT: torch.Tensor, branch_ids_BT: torch.Tensor, *, has_branches: bool
) -> torch.Tensor:
    """Return the boolean mask (B, 1, T, T) of causal attention within documents.

    In a document with branches, a query attends to the shared part (branch 0) and to its own
    branch. Padding has a document id of its own, so it never attends to data.
    """
    same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    if has_branches:
        key_branch_BT = branch_ids_BT[:, None, :]
        same_BTT &= (key_branch_BT == 0) | (key_branch_BT == branch_ids_BT[:, :, None])
    return same_BTT.tril()[:, None]
