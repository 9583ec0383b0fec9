"""Shares of loss tokens: nearest, nested, and equal to an exhaustive search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.mixture.schedule import permutation
from datamodules.mixture.token_share import nearest_num_target_samples

SHARES = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)


def share_with(number, permuted, base, target):
    """Compute the share token by token."""
    in_target = sum(int(target[i]) for i in range(len(base)) if permuted[i] < number)
    in_base = sum(int(base[i]) for i in range(len(base)) if permuted[i] >= number)
    return in_target / max(in_target + in_base, 1)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25),
    seed=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_no_other_number_of_samples_is_nearer(lengths, seed):
    base, target = np.asarray(lengths, dtype=np.int32).T
    order = permutation(len(base), seed, "language", "x")
    permuted = order(np.arange(len(base)))
    found = nearest_num_target_samples(SHARES, order, base_tokens=base, target_tokens=target)
    every = [share_with(number, permuted, base, target) for number in range(len(base) + 1)]
    for share, number in zip(SHARES, found, strict=True):
        if 0.0 < share < 1.0:
            assert abs(every[number] - share) == min(abs(other - share) for other in every)
    assert found[0] == 0
    assert found[-1] == len(base)
    assert list(found) == sorted(found)


def test_longer_answers_mean_fewer_samples():
    base, target = np.full(3000, 10), np.full(3000, 30)
    order = permutation(3000, 0, "language", "x")
    (number,) = nearest_num_target_samples([0.5], order, base_tokens=base, target_tokens=target)
    assert number == 750
    (equal,) = nearest_num_target_samples([0.5], order, base_tokens=base, target_tokens=base)
    assert equal == 1500


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_samples_that_are_bad_in_both_languages_do_not_count(share):
    order = permutation(100, 1, "language", "x")
    tokens = np.where(np.arange(100) % 2, 8, 0)
    (number,) = nearest_num_target_samples([share], order, base_tokens=tokens, target_tokens=tokens)
    permuted = order(np.arange(100))
    assert share_with(number, permuted, tokens, tokens) == pytest.approx(share, abs=1e-12)
