"""Named random streams and permutations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.rng import (
    FeistelPermutation,
    named_key,
    named_rng,
    seeded,
    torch_generator,
    torch_seed,
)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_feistel_is_a_bijection(n: int, seed: int) -> None:
    permutation = FeistelPermutation(n, seed, "x")
    values = permutation(np.arange(n))
    assert sorted(values) == list(range(n))


def test_feistel_computes_each_position_independently() -> None:
    permutation = FeistelPermutation(1000, 7, "a")
    whole = permutation(np.arange(1000))
    assert [int(permutation(np.asarray(i))) for i in (0, 3, 999)] == [
        whole[0],
        whole[3],
        whole[999],
    ]
    assert permutation(np.arange(6).reshape(2, 3)).shape == (2, 3)


@pytest.mark.slow
def test_feistel_spreads_small_ranges_evenly() -> None:
    n, num_seeds = 6, 1500
    table = np.stack([FeistelPermutation(n, s, "even")(np.arange(n)) for s in range(num_seeds)])
    for position in range(n):
        share = np.bincount(table[:, position], minlength=n) / num_seeds
        assert np.abs(share - 1 / n).max() < 0.04


def test_feistel_rejects_positions_outside_its_range() -> None:
    with pytest.raises(IndexError, match="position 5 is out of range for n=5"):
        FeistelPermutation(5, 0)(np.asarray([5]))
    with pytest.raises(ValueError, match="at least one element, got n=0"):
        FeistelPermutation(0, 0)


def test_streams_are_keyed_by_names_and_their_types() -> None:
    assert named_key(1, "a", 2) == named_key(1, "a", 2)
    keys = {
        named_key(1, "a", 2),
        named_key(1, "a", "2"),
        named_key(1, 2, "a"),
        named_key(2, "a", 2),
    }
    assert len(keys) == 4
    first, second = named_rng(0, "noise", 3).random(4), named_rng(0, "noise", 3).random(4)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, named_rng(0, "noise", 4).random(4))


def test_torch_generators_are_keyed_by_names() -> None:
    a, b = (torch.rand(3, generator=torch_generator(0, "x")) for _ in range(2))
    assert torch.equal(a, b)


def test_torch_seeds_are_the_low_63_bits_of_the_key() -> None:
    for seed in range(50):
        assert torch_seed(seed, "x") == named_key(seed, "x") % 2**63
    assert any(named_key(seed, "x") >= 2**63 for seed in range(50))


def test_a_seeded_block_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded(3, "init"):
        first = torch.rand(4)
    with seeded(3, "init"):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(first, torch.rand(4, generator=torch_generator(3, "init")))
    assert torch.equal(torch.get_rng_state(), before)
