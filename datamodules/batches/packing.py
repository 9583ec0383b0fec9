"""Batch planning: assignment of a step's samples to ranks, micro-batches and packed rows.

The plan is a pure function of the lengths. Samples are dealt to groups of ranks, and every rank
plans its own group, so that its work hardly grows with the number of ranks.
"""

import heapq
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from core.errors import ConfigError

Row: TypeAlias = tuple[int, ...]
"""Indices into the step's global batch of the samples that share a row, in ascending order."""
MicroBatchPlan: TypeAlias = tuple[Row, ...]

GROUP_RANKS = 16
"""Maximum number of ranks that are planned together."""
_MAX_EXCHANGES = 1000
_ROW_COUNT_OFFSETS = (0, -1, 1, -2)
_GOOD_DENSITY = 0.98


def plan_step(
    lengths: np.ndarray, world_size: int, micro_batch_tokens: int, row_tokens: int
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    """Plan one optimizer step for all ranks.

    Args:
        lengths: Number of tokens of each sample of the global batch; samples with 0 are skipped.
        world_size: Number of ranks to plan for.
        micro_batch_tokens: Maximum number of tokens in a micro-batch, including padding.
        row_tokens: Target average number of tokens in a row.

    Returns:
        The micro-batches of each rank, each a tuple of rows; an empty micro-batch has no rows. All
        ranks have the same number of micro-batches.

    Raises:
        ConfigError: If a sample is longer than a row, or a row is larger than a micro-batch.
    """
    check_lengths(lengths, micro_batch_tokens, row_tokens)
    sizes = _group_sizes(world_size)
    plans = [
        plan
        for members, size in zip(_deal(lengths, sizes), sizes, strict=True)
        for plan in _plan_group(members, lengths, size, micro_batch_tokens, row_tokens)
    ]
    most = max(len(plan) for plan in plans)
    return tuple(plan + ((),) * (most - len(plan)) for plan in plans)


def plan_rank(
    lengths: np.ndarray, rank: int, world_size: int, micro_batch_tokens: int, row_tokens: int
) -> tuple[MicroBatchPlan, ...]:
    """Plan the part of one rank, as `plan_step` does, without planning other groups of ranks.

    Groups may differ in their number of micro-batches. The ranks then add empty ones until all have
    the same number, which needs communication.
    """
    check_lengths(lengths, micro_batch_tokens, row_tokens)
    sizes = _group_sizes(world_size)
    group = int(np.searchsorted(np.cumsum(sizes), rank, side="right"))
    members = _deal(lengths, sizes)[group]
    plans = _plan_group(members, lengths, sizes[group], micro_batch_tokens, row_tokens)
    return plans[rank - sum(sizes[:group])]


def _group_sizes(world_size: int) -> list[int]:
    """Return the number of ranks of each group, which differ by at most one."""
    num_groups = -(-world_size // GROUP_RANKS)
    return [(world_size + group) // num_groups for group in range(num_groups)]


def _deal(lengths: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the sorted indices of the samples of each group.

    Samples are dealt from the longest to the shortest, each to the group with the fewest tokens per
    rank so far.
    """
    if len(sizes) == 1:
        return [np.flatnonzero(lengths)]
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    loads = [(0.0, group) for group in range(len(sizes))]
    groups = np.empty(len(order), dtype=np.int64)
    for place, length in enumerate(lengths[order].tolist()):
        load, group = loads[0]
        groups[place] = group
        heapq.heapreplace(loads, (load + length / sizes[group], group))
    return [np.sort(order[groups == group]) for group in range(len(sizes))]


def _plan_group(
    members: np.ndarray,
    lengths: np.ndarray,
    num_ranks: int,
    micro_batch_tokens: int,
    row_tokens: int,
) -> list[tuple[MicroBatchPlan, ...]]:
    """Return the equally many micro-batches of each rank of a group."""
    sizes = [int(lengths[i]) for i in members]
    budget = num_ranks * micro_batch_tokens
    num_per_rank = max(1, -(-sum(sizes) // budget))
    while True:
        bins = _balanced_bins(sizes, num_per_rank * num_ranks)
        if max(sum(sizes[i] for i in items) for items in bins) > micro_batch_tokens:
            num_per_rank += 1
            continue
        plans = [
            _pack_rows([int(members[i]) for i in items], lengths, row_tokens) for items in bins
        ]
        if max(_count_padded(plan, lengths) for plan in plans) <= micro_batch_tokens:
            return [tuple(plans[rank::num_ranks]) for rank in range(num_ranks)]
        num_per_rank += 1


def check_lengths(lengths: np.ndarray, micro_batch_tokens: int, row_tokens: int) -> None:
    """Check that every sample fits into a row, because samples are never truncated.

    Raises:
        ConfigError: If one does not fit; the message gives the value that would be enough.
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
    """Return the fraction of positions that are not padding."""
    tokens = sum(int(lengths[i]) for micro in plan for row in micro for i in row)
    padded = sum(_count_padded(micro, lengths) for micro in plan)
    return tokens / padded if padded else 1.0


def _pack_rows(indices: list[int], lengths: np.ndarray, row_tokens: int) -> MicroBatchPlan:
    """Pack samples into the number of rows that the tokens need, filled evenly.

    The longest row sets the width. If rows hold few, long samples, they may not balance; one row
    more, or one or two fewer and slightly wider ones, are sometimes denser and are tried too.
    """
    sizes = [int(lengths[i]) for i in indices]
    num_rows = -(-sum(sizes) // row_tokens)
    best: MicroBatchPlan = ()
    for candidate in (max(1, num_rows + more) for more in _ROW_COUNT_OFFSETS if indices):
        bins = _balanced_bins(sizes, candidate)
        rows = tuple(sorted(tuple(sorted(indices[i] for i in items)) for items in bins if items))
        if not best or _count_padded(rows, lengths) < _count_padded(best, lengths):
            best = rows
        if density([best], lengths) >= _GOOD_DENSITY:
            break
    return best


def _count_padded(rows: MicroBatchPlan, lengths: np.ndarray) -> int:
    return len(rows) * max((sum(int(lengths[i]) for i in row) for row in rows), default=0)


def _balanced_bins(sizes: list[int], num_bins: int) -> list[list[int]]:
    """Split items into bins of nearly equal weight: longest first, then exchanges."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap = [(0, b) for b in range(num_bins)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, b = heapq.heappop(heap)
        bins[b].append(item)
        heapq.heappush(heap, (load + sizes[item], b))
    return (
        bins
        if num_bins == 1 or not sizes
        else _exchange_items(bins, np.asarray(sizes, dtype=np.int64))
    )


def _exchange_items(bins: list[list[int]], sizes: np.ndarray) -> list[list[int]]:
    """Apply the exchange (or move) that lowers the heaviest bin most, until none helps.

    A move is an exchange with a weightless item, of which every bin has one. Of equally good
    exchanges, the first item of the heaviest bin is given, and the first partner is taken.
    """
    num_items, num_bins = len(sizes), len(bins)
    # Item `num_items + b` is the weightless one of bin b.
    members = [{*items, num_items + b} for b, items in enumerate(bins)]
    sizes = np.concatenate([sizes, np.zeros(num_bins, dtype=np.int64)])
    loads = np.array([sizes[list(items)].sum() for items in members], dtype=np.int64)
    # Among partners of one size, the one in the lightest bin is best: the best exchange is searched
    # among the distinct sizes, which are few, and then its first place among all partners.
    by_size = np.argsort(sizes, kind="stable")
    distinct, starts = np.unique(sizes[by_size], return_index=True)
    stops = [*starts[1:], len(sizes)]
    place = np.empty_like(by_size)
    place[by_size] = np.arange(len(sizes))
    owner = np.empty_like(by_size)
    for b, items in enumerate(members):
        owner[list(items)] = b
    partner_load = loads[owner[by_size]]
    for _ in range(_MAX_EXCHANGES):
        heavy = int(loads.argmax())
        top = int(loads[heavy])
        mine = np.array(sorted(members[heavy]))
        partner_load[place[mine]] = top + distinct[-1]  # never improves
        lightest = np.minimum.reduceat(partner_load, starts)
        moved = sizes[mine[:-1], None] - distinct
        worst = np.maximum(top - moved, lightest + moved)
        given = int(worst.min(axis=1).argmin())
        row = worst[given]
        if row.min() >= top:
            break
        taken = len(sizes)
        for k in np.flatnonzero(row == row.min()):
            places = slice(starts[k], stops[k])
            others = np.maximum(top - moved[given, k], partner_load[places] + moved[given, k])
            taken = min(taken, int(by_size[places][others.argmin()]))
        item = int(mine[given])
        light = int(owner[taken])
        shift = int(sizes[item] - sizes[taken])
        _move(item, heavy, light, owner, members)
        if taken < num_items:
            _move(taken, light, heavy, owner, members)
        for b, change in ((heavy, -shift), (light, shift)):
            loads[b] += change
            partner_load[place[list(members[b])]] = loads[b]
    return [sorted(items)[:-1] for items in members]


def _move(item: int, source: int, target: int, owner: np.ndarray, members: list[set[int]]) -> None:
    members[source].remove(item)
    members[target].add(item)
    owner[item] = target
