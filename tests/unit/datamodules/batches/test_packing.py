"""The batch plan: every sample once, balanced and dense micro-batches within the limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from datamodules.batches.packing import (
    _balanced_bins,
    check_lengths,
    density,
    plan_rank,
    plan_step,
)

DISTRIBUTIONS = {
    "30-120": lambda rng, n: rng.integers(30, 121, n),
    "60-120": lambda rng, n: rng.integers(60, 121, n),
    "short": lambda rng, n: rng.integers(8, 21, n),
    "two kinds": lambda rng, n: np.where(
        rng.random(n) < 0.5, rng.integers(8, 20, n), rng.integers(80, 160, n)
    ),
    "long tail": lambda rng, n: np.clip(rng.lognormal(4, 0.7, n), 5, 256).astype(np.int64),
    "equal": lambda rng, n: np.full(n, 47),
}


def flat(plan):
    return [micro for rank in plan for micro in rank]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_density(name, world_size):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(10):
        lengths = DISTRIBUTIONS[name](rng, 64)
        found.append(density(flat(plan_step(lengths, world_size, 4096, 256)), lengths))
    assert np.mean(found) >= 0.97
    assert min(found) >= 0.95


def cc3m_like(rng, n):
    """Captions after the 576 tokens of CLIP ViT-L/14 at 336 pixels, of nearly equal length."""
    return 592 + np.clip(rng.lognormal(3.2, 0.5, n), 4, 200).astype(np.int64)


def ama_like(rng, n):
    """Questions with answers of very different lengths, mixed with text-only instructions."""
    images = 600 + np.clip(rng.lognormal(4.6, 0.8, n), 4, 1400).astype(np.int64)
    texts = np.clip(rng.lognormal(6.2, 0.6, n), 40, 2000).astype(np.int64)
    return np.where(rng.random(n) < 0.8, images, texts)


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize(("make", "batch"), [(cc3m_like, 256), (ama_like, 128)])
def test_density_at_paper_scale(make, batch, world_size):
    found = []
    for seed in range(4):
        lengths = make(np.random.default_rng(seed), batch)
        found.append(density(flat(plan_step(lengths, world_size, 16384, 4096)), lengths))
    assert min(found) >= 0.97


@given(
    lengths=st.lists(st.integers(0, 100), min_size=0, max_size=80),
    world_size=st.integers(1, 4),
    micro_batch_tokens=st.integers(100, 700),
)
@settings(max_examples=80, deadline=None)
def test_the_plan_is_complete_and_within_its_limits(lengths, world_size, micro_batch_tokens):
    lengths = np.asarray(lengths, dtype=np.int64)
    plan = plan_step(lengths, world_size, micro_batch_tokens, 100)
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    slots = sorted(slot for micro in flat(plan) for row in micro for slot in row)
    assert slots == np.flatnonzero(lengths).tolist()
    for micro in flat(plan):
        assert all(row and list(row) == sorted(row) for row in micro)
        widths = [sum(lengths[slot] for slot in row) for row in micro]
        assert len(widths) * max(widths, default=0) <= micro_batch_tokens
    assert plan == plan_step(lengths.copy(), world_size, micro_batch_tokens, 100)


@given(
    lengths=st.lists(st.integers(0, 100), min_size=1, max_size=60),
    world_size=st.integers(1, 4),
    micro_batch_tokens=st.integers(100, 700),
)
@settings(max_examples=80, deadline=None)
def test_micro_batches_differ_by_at_most_one_sample(lengths, world_size, micro_batch_tokens):
    """Per micro-batch, no rank waits for another longer than one sample takes."""
    lengths = np.asarray(lengths, dtype=np.int64)
    plan = plan_step(lengths, world_size, micro_batch_tokens, 100)
    tokens = [sum(lengths[slot] for row in micro for slot in row) for micro in flat(plan)]
    assert max(tokens) - min(tokens) <= lengths.max()


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    bad=st.sets(st.integers(0, 59)),
    world_size=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_bad_sample_does_not_change_the_plan_of_the_others(lengths, bad, world_size):
    """The plan with bad samples is the plan of the remaining samples."""
    lengths = np.asarray(lengths, dtype=np.int64)
    lengths[[i for i in bad if i < lengths.size]] = 0
    kept = np.flatnonzero(lengths)
    rest = plan_step(lengths[kept], world_size, 400, 100)
    renamed = tuple(
        tuple(tuple(tuple(int(kept[i]) for i in row) for row in micro) for micro in rank)
        for rank in rest
    )
    assert plan_step(lengths, world_size, 400, 100) == renamed


def test_ranks_are_balanced_by_tokens():
    lengths = np.random.default_rng(1).integers(20, 200, 96)
    plan = plan_step(lengths, 4, 1024, 256)
    tokens = [sum(lengths[s] for micro in rank for row in micro for s in row) for rank in plan]
    assert max(tokens) <= 1.02 * np.mean(tokens)


def test_rows_have_about_row_tokens():
    lengths = np.full(32, 64)
    (micro_batches,) = plan_step(lengths, 1, 4096, 256)
    assert [len(row) for row in micro_batches[0]] == [4] * 8


def test_fewer_samples_than_ranks():
    plan = plan_step(np.asarray([5, 0, 7]), 4, 64, 16)
    assert [len(rank) for rank in plan] == [1] * 4
    assert sorted(len(micro) for micro in flat(plan)) == [0, 0, 1, 1]
    assert density([()], np.zeros(1)) == 1.0


def test_invalid_limits_are_rejected():
    with pytest.raises(ConfigError, match=r"2 of 3 .*row_tokens=64, the longest has 90"):
        plan_step(np.asarray([90, 3, 65]), 1, 128, 64)
    with pytest.raises(ConfigError, match=r"row_tokens=64, expected 1\.\.micro_batch_tokens=32"):
        check_lengths(np.asarray([1]), 32, 64)
    with pytest.raises(ConfigError, match="row_tokens=0"):
        check_lengths(np.asarray([1]), 32, 0)


@given(
    lengths=st.lists(st.integers(0, 100), min_size=0, max_size=200),
    world_size=st.integers(17, 70),
)
@settings(max_examples=40, deadline=None)
def test_groups_of_ranks_plan_every_sample_once(lengths, world_size):
    lengths = np.asarray(lengths, dtype=np.int64)
    whole = plan_step(lengths, world_size, 300, 100)
    assert len({len(rank) for rank in whole}) == 1
    slots = sorted(slot for micro in flat(whole) for row in micro for slot in row)
    assert slots == np.flatnonzero(lengths).tolist()
    for rank in (0, world_size // 2, world_size - 1):
        own = plan_rank(lengths, rank, world_size, 300, 100)
        assert whole[rank][: len(own)] == own
        assert not any(whole[rank][len(own) :]), "only empty micro-batches are added"


@pytest.mark.parametrize("world_size", [1, 2, 16])
def test_a_group_is_planned_as_before(world_size):
    lengths = np.random.default_rng(3).integers(20, 100, 100)
    plan = plan_step(lengths, world_size, 600, 100)
    assert plan == tuple(plan_rank(lengths, r, world_size, 600, 100) for r in range(world_size))


def test_ranks_of_all_groups_get_nearly_equal_numbers_of_tokens():
    lengths = ama_like(np.random.default_rng(0), 2048)
    plan = plan_step(lengths, 128, 16384, 4096)
    tokens = [sum(int(lengths[i]) for micro in r for row in micro for i in row) for r in plan]
    assert max(tokens) / np.mean(tokens) < 1.02


def balanced_by_definition(sizes: list[int], num_bins: int) -> list[list[int]]:
    """Longest first, then the first of the best exchanges or moves, as long as one helps."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        min(bins, key=lambda b: sum(sizes[i] for i in b)).append(item)
    while True:
        loads = [sum(sizes[i] for i in b) for b in bins]
        heavy = loads.index(max(loads))
        places = sorted((i, b) for b, items in enumerate(bins) for i in items if b != heavy)
        best = loads[heavy], None
        for mine in sorted(bins[heavy]):
            for taken, b in [*places, *((None, b) for b in range(num_bins) if b != heavy)]:
                moved = sizes[mine] - (0 if taken is None else sizes[taken])
                worst = max(loads[heavy] - moved, loads[b] + moved)
                if worst < best[0]:
                    best = worst, (mine, taken, b)
        if best[1] is None:
            return [sorted(items) for items in bins]
        mine, taken, b = best[1]
        bins[heavy].remove(mine)
        bins[b].append(mine)
        if taken is not None:
            bins[b].remove(taken)
            bins[heavy].append(taken)


@pytest.mark.parametrize("seed", range(8))
def test_exchanges_are_the_best_ones_in_a_fixed_order(seed: int) -> None:
    """The plan decides which samples share a micro-batch, so it must not depend on the search."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        sizes = rng.integers(1, int(rng.choice([6, 60])), int(rng.integers(1, 24))).tolist()
        num_bins = int(rng.integers(2, 7))
        assert _balanced_bins(sizes, num_bins) == balanced_by_definition(sizes, num_bins)
