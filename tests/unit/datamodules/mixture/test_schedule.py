"""Exact proportions at every prefix, and epochs that are permutations."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from datamodules.mixture.schedule import EpochOrder, Schedule, permutation, round_permutation


def deviations(weights, num_positions):
    """Return the deviation from the exact share in samples, (prefix, component)."""
    schedule = Schedule(weights)
    component = schedule(np.arange(num_positions)).component
    counts = np.eye(len(weights), dtype=np.int64)[component].cumsum(axis=0)
    shares = np.asarray([float(w) for w in weights]) / schedule.samples_per_step
    return np.abs(counts - np.arange(1, num_positions + 1)[:, None] * shares)


@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=9), step=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_no_prefix_deviates_by_a_sample(counts, step):
    # The fractions are awkward on purpose: step * count / sum(counts) is rarely an integer.
    weights = [float(Fraction(step * count, sum(counts))) for count in counts]
    bound = 1 - 1 / (2 * len(counts) - 2) if len(counts) > 2 else 0.5 + 1e-12
    assert deviations(weights, 2 * sum(counts)).max() <= bound + 1e-9


@pytest.mark.parametrize(
    "weights",
    [[64], [64 / 3, 128 / 3], [51.2, 12.8], [9.6, 3.7, 0.7, 50.0], [0.1] * 9 + [0.1]],
)
def test_common_shares_are_exact(weights):
    assert deviations(weights, 3000).max() < 1


def test_naive_rounding_fails_the_bound():
    """Control: rounding the prefix of each component deviates by more than one sample."""
    shares, num = np.asarray([0.15] * 6 + [0.1]), 40
    steps = np.arange(1, num + 1)[:, None]
    counts = np.round(steps * shares)
    counts[:, -1] = steps[:, 0] - counts[:, :-1].sum(axis=1)
    assert np.abs(counts - steps * shares).max() >= 1


def test_indices_increase_and_periods_are_exact():
    schedule = Schedule([4.5, 1.25, 0.25])
    assigned = schedule(np.arange(5 * schedule.period))
    for c in range(3):
        indices = assigned.index_in_component[assigned.component == c]
        assert np.array_equal(indices, np.arange(5 * schedule.counts[c]))
    for position in (0, 1, 17, schedule.period, 3 * schedule.period + 5):
        expected = np.bincount(assigned.component[:position], minlength=3)
        assert np.array_equal(schedule.prefix_counts(position), expected)


def test_positions_may_be_in_any_order():
    schedule = Schedule([2.5, 1.5])
    positions = np.asarray([10**12 + 3, 5, 10**12])
    assigned = schedule(positions)
    again = [schedule(np.asarray([p])) for p in positions]
    assert assigned.component.tolist() == [int(a.component[0]) for a in again]
    assert assigned.index_in_component.tolist() == [int(a.index_in_component[0]) for a in again]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.5, 1.0], "sum to 2.5 .*whole number of samples"),
        ([0.0, 1.0], "samples_per_step=0.0, expected a positive"),
        ([1 / 3 + 1e-4, 2 / 3], "denominator up to 1000"),
        ([64 * 991 / 997, 64 * 6 / 997, 63 + 1 / 991, 990 / 991], "have a period of"),
    ],
)
def test_invalid_weights_are_rejected(weights, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(weights)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    block_shards=st.integers(1, 8),
    epoch=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_every_epoch_is_a_permutation(sizes, block_shards, epoch):
    order = EpochOrder(np.asarray(sizes), block_shards, 5, "name", epoch)
    places = np.arange(sum(sizes))
    samples = order(places)
    assert sorted(samples) == list(places)
    assert np.array_equal(order(places[::-1]), samples[::-1])


def test_blocks_keep_shards_together():
    sizes = np.asarray([10, 3, 7, 5, 9])
    shard_of_sample = np.repeat(np.arange(5), sizes)
    samples = EpochOrder(sizes, 2, 0, "x", 0)(np.arange(34))
    shards = shard_of_sample[samples]
    change = [len(set(shards[:k])) for k in range(1, 35)]
    first_block = set(shards[: sizes[shards[0]]])
    assert len(first_block) <= 2
    assert change[-1] == 5


def test_epochs_and_names_differ():
    sizes = np.asarray([50, 50])
    orders = [
        EpochOrder(sizes, 64, 0, n, e)(np.arange(100)) for n, e in [("a", 0), ("a", 1), ("b", 0)]
    ]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


@given(num_rounds=st.integers(1, 6), length=st.integers(1, 30), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_indices_take_one_round_after_the_other(num_rounds, length, seed):
    size = num_rounds * length
    permuted = round_permutation(size, num_rounds, seed, "cap")(np.arange(size))
    assert sorted(permuted) == list(range(size))
    for share in range(num_rounds + 1):
        chosen = np.flatnonzero(permuted < share * length)
        assert len(set((chosen // length).tolist())) == share  # whole rounds only


def test_indices_without_rounds_do_not_change():
    expected = permutation(50, 3, "language", "cap")(np.arange(50))
    assert np.array_equal(round_permutation(50, 1, 3, "cap")(np.arange(50)), expected)
    orders = {tuple(round_permutation(50, 5, seed, "cap")(np.arange(50))) for seed in range(3)}
    assert len(orders) == 3
