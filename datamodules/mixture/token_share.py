"""How many images speak the target language so that it gets its share of the target tokens.

Kept apart from `mixture`, which deals in samples and knows no lengths.
"""

from collections.abc import Sequence

import numpy as np

from datamodules.mixture.schedule import Permutation


def nearest_num_target_samples(
    shares: Sequence[float],
    ranks: Permutation,
    *,
    base_tokens: np.ndarray,
    target_tokens: np.ndarray,
) -> tuple[int, ...]:
    """For each share, the number of samples to read in the target language.

    The samples of lowest rank are taken, so the sets of two shares are nested; of all such sets it
    is the one whose share of the target tokens is nearest (of two as near, the lower share).

    Args:
        shares: Wanted shares of the target tokens, each in 0..1.
        ranks: The fixed rank of each sample.
        base_tokens: Target tokens of each sample in the base language; 0 for a bad sample.
        target_tokens: The same in the target language.
    """
    realised = token_shares(ranks, base_tokens=base_tokens, target_tokens=target_tokens)
    return tuple(_nearest(realised, share) for share in shares)


def token_shares(
    ranks: Permutation, *, base_tokens: np.ndarray, target_tokens: np.ndarray
) -> np.ndarray:
    """The target language's share of the target tokens with 0, 1, ... n samples; never falls."""
    num_samples = len(base_tokens)
    sample_of_rank = np.empty(num_samples, dtype=np.int64)
    sample_of_rank[ranks(np.arange(num_samples))] = np.arange(num_samples)
    in_target = _prefix_sums(target_tokens[sample_of_rank])
    in_base = _prefix_sums(base_tokens[sample_of_rank])
    total = in_target + in_base[-1] - in_base
    shares: np.ndarray = in_target / np.maximum(total, 1)
    return shares


def _nearest(realised: np.ndarray, share: float) -> int:
    last = len(realised) - 1
    if share in (0.0, 1.0):  # all of a language means all, samples without a token included
        return last if share else 0
    above = min(int(np.searchsorted(realised, share)), last)
    below = max(0, above - 1)
    is_above_nearer = abs(realised[above] - share) < abs(share - realised[below])
    return above if is_above_nearer else below


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
