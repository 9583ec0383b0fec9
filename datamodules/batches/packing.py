"""The batch plan: who computes which samples of a step, and how they are packed into rows.

A pure function of the lengths, so every rank computes the whole plan and takes its own part; all
ranks get the same number of micro-batches.
"""

import heapq
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from core.errors import ConfigError

Row: TypeAlias = tuple[int, ...]
"""Slots (places in the step's global batch) that share a row, ascending."""
MicroBatchPlan: TypeAlias = tuple[Row, ...]

_MAX_EXCHANGES = 1000
_OTHER_ROWS = (0, -1, 1, -2)
_GOOD_DENSITY = 0.98


def plan_step(
    lengths: np.ndarray, world_size: int, micro_batch_tokens: int, row_tokens: int
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    """Plan one optimizer step.

    Args:
        lengths: Tokens of each slot of the global batch; 0 leaves the slot out.
        world_size: Ranks to plan for.
        micro_batch_tokens: Most tokens of a micro-batch, padding included.
        row_tokens: Tokens that a row aims at, on average.

    Returns:
        For each rank its micro-batches, each a tuple of rows; an empty one has no rows.

    Raises:
        ConfigError: a sample longer than a row, or a row larger than a micro-batch.
    """
    check_lengths(lengths, micro_batch_tokens, row_tokens)
    slots = np.flatnonzero(lengths)
    sizes = [int(lengths[slot]) for slot in slots]
    budget = world_size * micro_batch_tokens
    num_per_rank = max(1, -(-sum(sizes) // budget))
    while True:
        bins = _balanced(sizes, num_per_rank * world_size)
        plans = [_rows([int(slots[i]) for i in items], lengths, row_tokens) for items in bins]
        if max(_padded(plan, lengths) for plan in plans) <= micro_batch_tokens:
            break
        num_per_rank += 1
    return tuple(tuple(plans[rank::world_size]) for rank in range(world_size))


def check_lengths(lengths: np.ndarray, micro_batch_tokens: int, row_tokens: int) -> None:
    """Check that everything fits; nothing is ever truncated.

    Raises:
        ConfigError: with the value that would do.
    """
    if not 1 <= row_tokens <= micro_batch_tokens:
        raise ConfigError(
            f"row_tokens={row_tokens}, expected 1..micro_batch_tokens={micro_batch_tokens}"
        )
    longest = int(lengths.max(initial=0))
    if longest > row_tokens:
        too_long = int((lengths > row_tokens).sum())
        raise ConfigError(
            f"{too_long} of {lengths.size} samples are longer than row_tokens={row_tokens}, the "
            f"longest has {longest} tokens; raise row_tokens to {longest} or remove them"
        )


def density(plan: Sequence[MicroBatchPlan], lengths: np.ndarray) -> float:
    """Share of positions that are not padding."""
    tokens = sum(int(lengths[slot]) for micro in plan for row in micro for slot in row)
    padded = sum(_padded(micro, lengths) for micro in plan)
    return tokens / padded if padded else 1.0


def _rows(slots: list[int], lengths: np.ndarray, row_tokens: int) -> MicroBatchPlan:
    """As many rows as the tokens need, filled evenly: the longest row sets the width.

    Where few long samples share a row they may not come out even; a row more, or one or two fewer
    and a little wider, sometimes do.
    """
    sizes = [int(lengths[slot]) for slot in slots]
    num_rows = -(-sum(sizes) // row_tokens)
    best: MicroBatchPlan = ()
    for candidate in (max(1, num_rows + more) for more in _OTHER_ROWS if slots):
        bins = _balanced(sizes, candidate)
        rows = tuple(sorted(tuple(sorted(slots[i] for i in items)) for items in bins if items))
        if not best or _padded(rows, lengths) < _padded(best, lengths):
            best = rows
        if density([best], lengths) >= _GOOD_DENSITY:
            break
    return best


def _padded(rows: MicroBatchPlan, lengths: np.ndarray) -> int:
    return len(rows) * max((sum(int(lengths[slot]) for slot in row) for row in rows), default=0)


def _balanced(sizes: list[int], num_bins: int) -> list[list[int]]:
    """Split items into bins of nearly equal weight: longest first, then swaps (deterministic)."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap = [(0, b) for b in range(num_bins)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, b = heapq.heappop(heap)
        bins[b].append(item)
        heapq.heappush(heap, (load + sizes[item], b))
    return (
        bins if num_bins == 1 or not sizes else _exchange(bins, np.asarray(sizes, dtype=np.int64))
    )


def _exchange(bins: list[list[int]], sizes: np.ndarray) -> list[list[int]]:
    """Lower the heaviest bin by the exchange (or gift) that helps most, until none does."""
    owner = np.empty(len(sizes), dtype=np.int64)
    for b, items in enumerate(bins):
        owner[items] = b
    loads = np.bincount(owner, weights=sizes, minlength=len(bins)).astype(np.int64)
    for _ in range(_MAX_EXCHANGES):
        heavy = int(loads.argmax())
        mine, others = np.flatnonzero(owner == heavy), np.flatnonzero(owner != heavy)
        # A gift is an exchange against nothing: one weightless partner per bin.
        partner_bin = np.concatenate([owner[others], np.arange(len(bins))])
        partner_size = np.concatenate([sizes[others], np.zeros(len(bins), dtype=np.int64)])
        moved = sizes[mine][:, None] - partner_size[None, :]
        worst = np.maximum(loads[heavy] - moved, loads[partner_bin][None, :] + moved)
        worst[:, len(others) + heavy] = loads[heavy]
        given, taken = np.unravel_index(int(worst.argmin()), worst.shape)
        if worst[given, taken] >= loads[heavy]:
            break
        light = int(partner_bin[taken])
        owner[mine[given]] = light
        if taken < len(others):
            owner[others[taken]] = heavy
        loads[heavy] -= moved[given, taken]
        loads[light] += moved[given, taken]
    return [np.flatnonzero(owner == b).tolist() for b in range(len(bins))]
