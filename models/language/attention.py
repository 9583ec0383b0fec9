"""Attention over packed rows: documents that don't see each other, by three kernels of one result.

`mask` gives SDPA an explicit mask (everywhere), `flex` skips the blocks that no query of a tile may
see, `varlen` is flash attention over documents of any length (no branches). The language model gets
one attention function, which takes what the batch brings.
"""

import inspect
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch

from core.errors import ConfigError
from core.samples import MicroBatch

if TYPE_CHECKING:  # heavy, and most runs need none of it
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

_NAME = "irudimen_packed"


class AttentionKind(StrEnum):
    """How packed rows are attended."""

    AUTO = "auto"
    """The fastest that this device and this batch allow."""
    MASK = "mask"
    """SDPA with an explicit mask: everywhere, memory quadratic in the row."""
    FLEX = "flex"
    """Block-sparse flex attention (CUDA with Triton; refused on a CPU)."""
    VARLEN = "varlen"
    """Flash attention over documents (CUDA, 16-bit); micro-batches with branches use flex."""


def use_packed_attention(language_model: "PreTrainedModel", kind: AttentionKind) -> None:
    """Let a language model take what `attention_inputs` gives for a kind other than MASK.

    Raises:
        ConfigError: the model's layers are not full causal attention.
    """
    if kind is AttentionKind.MASK:
        return
    types = set(getattr(language_model.config, "layer_types", None) or ["full_attention"])
    if types != {"full_attention"}:
        raise ConfigError(
            f"compute.attention={kind} knows full attention only, {type(language_model).__name__} "
            f"has {sorted(types)}; use compute.attention=mask"
        )
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, packed_attention)
    language_model.config._attn_implementation = _NAME


def attention_inputs(
    micro_batch: MicroBatch, kind: AttentionKind, dtype: torch.dtype
) -> dict[str, Any]:
    """What the decoder needs to keep documents (and branches) of packed rows apart."""
    device = micro_batch.document_ids_BT.device
    kind = choose(kind, device, dtype, has_branches=bool(micro_batch.branch_ids_BT.any()))
    if kind is AttentionKind.VARLEN:
        starts, longest = document_starts(micro_batch.document_ids_BT)
        return {"attention_mask": None, "cu_seqlens": starts, "max_seqlen": longest}
    if kind is AttentionKind.FLEX:
        return {"attention_mask": block_mask(micro_batch)}
    mask = document_mask(micro_batch.document_ids_BT, micro_batch.branch_ids_BT)
    # As numbers: from booleans every layer would make them anew (a tenth of a CPU step).
    return {"attention_mask": additive(mask, dtype)}


def choose(
    kind: AttentionKind, device: torch.device, dtype: torch.dtype, *, has_branches: bool
) -> AttentionKind:
    """The kernel of one micro-batch: never MASK on a GPU unless asked for, never else on a CPU.

    Raises:
        ConfigError: a kernel that wants CUDA is asked for elsewhere. For flex torch has a CPU
            kernel too, whose results are wrong or NaN on processors without AVX-512 (torch 2.13).
    """
    if kind is AttentionKind.MASK:
        return kind
    if device.type != "cuda":
        if kind is AttentionKind.AUTO:
            return AttentionKind.MASK
        raise ConfigError(f"compute.attention={kind} needs CUDA, the batch is on {device.type}; "
                          "use auto or mask")  # fmt: skip
    if kind is AttentionKind.FLEX:
        return kind
    half = dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(device.type)
    return AttentionKind.VARLEN if half and not has_branches else AttentionKind.FLEX


def packed_attention(
    module: torch.nn.Module,
    query_BHTC: torch.Tensor,
    key_BGTC: torch.Tensor,
    value_BGTC: torch.Tensor,
    attention_mask: "torch.Tensor | BlockMask | None",
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The attention function of Hugging Face's registry; (B, T, H, C) out."""
    starts, longest = kwargs.pop("cu_seqlens", None), kwargs.pop("max_seqlen", 0)
    if starts is not None:
        return varlen_attention(
            query_BHTC, key_BGTC, value_BGTC, starts, longest, scale=kwargs.get("scaling")
        ), None
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
    """Causal attention inside every document of rows laid end to end; (B, T, H, C) out."""
    from torch.nn.attention import varlen  # torch >= 2.10; CUDA only

    varlen_attn: Any = varlen.varlen_attn

    num_rows, num_heads, num_tokens, width = query_BHTC.shape
    known = inspect.signature(varlen_attn).parameters  # it changed from release to release
    options: dict[str, Any] = {"scale": scale}
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if (group := num_heads // key_BGTC.shape[1]) > 1:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key_BGTC, value_BGTC = (
                x.repeat_interleave(group, dim=1) for x in (key_BGTC, value_BGTC)
            )
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query_BHTC, key_BGTC, value_BGTC)]
    out_NHC: torch.Tensor = varlen_attn(*flat, starts, starts, longest, longest, **options)
    return out_NHC.view(num_rows, num_tokens, num_heads, width)


def document_starts(document_ids_BT: torch.Tensor) -> tuple[torch.Tensor, int]:
    """int32 (documents + 1,) offsets of documents in rows laid end to end, and the longest one.

    Padding counts as a document of its own, which nobody looks at.
    """
    is_start_BT = torch.ones_like(document_ids_BT, dtype=torch.bool)
    is_start_BT[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    starts = is_start_BT.flatten().nonzero().flatten()
    ends = torch.tensor([document_ids_BT.numel()], device=starts.device)
    offsets = torch.cat([starts, ends])
    return offsets.int(), int(offsets.diff().max())


def block_mask(micro_batch: MicroBatch) -> "BlockMask":
    """The mask of `document_mask` as flex attention's tiles."""
    from torch.nn.attention.flex_attention import create_block_mask

    documents_BT, branches_BT = micro_batch.document_ids_BT, micro_batch.branch_ids_BT

    def may_see(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        del h
        same = (documents_BT[b, q] == documents_BT[b, k]) & (q >= k)
        return same & ((branches_BT[b, k] == 0) | (branches_BT[b, k] == branches_BT[b, q]))

    num_rows, num_tokens = documents_BT.shape
    return create_block_mask(
        may_see, num_rows, None, num_tokens, num_tokens, device=str(documents_BT.device)
    )


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query may look, -inf elsewhere: what is added to its scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def document_mask(document_ids_BT: torch.Tensor, branch_ids_BT: torch.Tensor) -> torch.Tensor:
    """Boolean (B, 1, T, T): True where a query may look: backwards, inside its own document.

    Of a document with branches it sees what all share (branch 0) and its own branch. Padding has
    one document id of its own, so it attends to itself and never to data.
    """
    same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    if bool(branch_ids_BT.any()):
        key_branch_BT = branch_ids_BT[:, None, :]
        same_BTT &= (key_branch_BT == 0) | (key_branch_BT == branch_ids_BT[:, :, None])
    return same_BTT.tril()[:, None]
