"""The mask of packed rows in the block-sparse format of flex attention.

torch's `create_block_mask` evaluates the mask at every pair of positions: at 8,192 tokens these are
hundreds of megabytes of temporary tensors for each micro-batch. Documents and branches are
stretches of positions, so it is enough to know which stretches a block of 128 positions touches.
"""

from typing import TYPE_CHECKING

import torch

from core.samples import MicroBatch

if TYPE_CHECKING:  # a slow import that most runs do not need
    from torch.nn.attention.flex_attention import BlockMask

BLOCK_TOKENS = 128
"""Positions of a block, the default of flex attention."""


def block_mask(micro_batch: MicroBatch) -> "BlockMask":
    """Return the mask of `document_mask` in the format of flex attention."""
    from torch.nn.attention.flex_attention import BlockMask

    documents_BT, branches_BT = micro_batch.document_ids_BT, micro_batch.branch_ids_BT

    def may_attend(
        b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        del h
        same = (documents_BT[b, q] == documents_BT[b, k]) & (q >= k)
        return same & ((branches_BT[b, k] == 0) | (branches_BT[b, k] == branches_BT[b, q]))

    partial_BQK, full_BQK = _visible_blocks(micro_batch)
    num_tokens = documents_BT.shape[1]
    return BlockMask.from_kv_blocks(
        *_ordered(partial_BQK),
        *_ordered(full_BQK),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=may_attend,
        seq_lengths=(num_tokens, num_tokens),
    )


def _visible_blocks(micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which blocks of keys a block of queries sees in part, and which entirely (B, Q, K).

    A block sees part of itself, because every position sees itself and none after it. All positions
    of an earlier block come before its own, so only documents and branches decide about that one.
    """
    documents_BT, branches_BT = micro_batch.document_ids_BT, micro_batch.branch_ids_BT
    num_rows, num_tokens = documents_BT.shape
    num_blocks, num_segments = -(-num_tokens // BLOCK_TOKENS), micro_batch.num_segments
    device = documents_BT.device
    is_start_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    is_start_BT[:, 1:] = (documents_BT.diff(dim=1) != 0) | (branches_BT.diff(dim=1) != 0)
    segments_N = is_start_BT.flatten().cumsum(dim=0) - 1
    positions_N = torch.arange(num_rows * num_tokens, device=device)
    blocks_N = positions_N // num_tokens * num_blocks + positions_N % num_tokens // BLOCK_TOKENS
    touched = torch.zeros(num_rows * num_blocks * num_segments, device=device)
    touched.index_fill_(0, blocks_N * num_segments + segments_N, 1.0)
    touched_BQS = touched.view(num_rows, num_blocks, num_segments)
    documents_S, branches_S = (
        ids_BT.new_zeros(num_segments).index_copy(0, segments_N, ids_BT.flatten())
        for ids_BT in (documents_BT, branches_BT)
    )
    sees_SS = (documents_S[:, None] == documents_S) & (
        (branches_S == 0) | (branches_S[:, None] == branches_S)
    )
    # Autocast may multiply in bfloat16. Neighbouring stretches differ, so where all pairs see each
    # other, one of the blocks has a single stretch and the count is below 129, which is exact;
    # elsewhere at least a quarter of the pairs is missing.
    seen_BQK = touched_BQS @ sees_SS.float() @ touched_BQS.transpose(1, 2)
    counts_BQ = touched_BQS.sum(dim=2)
    blocks_K = torch.arange(num_blocks, device=device)
    is_earlier_QK = blocks_K[:, None] > blocks_K
    full_BQK = (seen_BQK == counts_BQ[:, :, None] * counts_BQ[:, None, :]) & is_earlier_QK
    if num_tokens % BLOCK_TOKENS:  # the last block is incomplete, which the mask must say
        full_BQK[:, -1] = False
    is_own_QK = blocks_K[:, None] == blocks_K
    return ((seen_BQK > 0) & is_earlier_QK & ~full_BQK) | is_own_QK, full_BQK


def _ordered(is_seen_BQK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of seen blocks (B, 1, Q) and the blocks (B, 1, Q, K), seen ones first."""
    seen_BQK = is_seen_BQK.to(torch.int32)
    order_BQK = seen_BQK.argsort(dim=2, descending=True, stable=True)
    return seen_BQK.sum(dim=2, dtype=torch.int32)[:, None], order_BQK.to(torch.int32)[:, None]
