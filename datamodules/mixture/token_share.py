"""Conversion of a share of loss tokens into a number of samples.

Separate from the mixture stream, which counts samples and has no access to their lengths.
"""

from collections.abc import Sequence

import numpy as np

from datamodules.mixture.schedule import Permutation


def nearest_num_target_samples(
    shares: Sequence[float],
    permuted_index: Permutation,
    *,
    base_tokens: np.ndarray,
    target_tokens: np.ndarray,
) -> tuple[int, ...]:
    """Return the number of samples to read in the target language for each share.

    The samples with the lowest permuted index are taken, so the sets of two shares are nested. Of
    all such sets, the one whose share of loss tokens is nearest is chosen (the smaller on a tie).

    Args:
        shares: Requested shares of the loss tokens, each within 0..1.
        permuted_index: Maps a sample index to its index in a fixed permutation.
        base_tokens: Loss tokens of each sample in the base language; 0 for a bad sample.
        target_tokens: Loss tokens of each sample in the target language; 0 for a bad sample.
    """
    realised = token_shares(permuted_index, base_tokens=base_tokens, target_tokens=target_tokens)
    return tuple(_nearest_count(realised, share) for share in shares)


def token_shares(
    permuted_index: Permutation, *, base_tokens: np.ndarray, target_tokens: np.ndarray
) -> np.ndarray:
    """Return the target language's share of loss tokens for 0, 1, ..., n samples (ascending)."""
    num_samples = len(base_tokens)
    order = np.empty(num_samples, dtype=np.int64)
    order[permuted_index(np.arange(num_samples))] = np.arange(num_samples)
    in_target = _prefix_sums(target_tokens[order])
    in_base = _prefix_sums(base_tokens[order])
    total = in_target + in_base[-1] - in_base
    shares: np.ndarray = in_target / np.maximum(total, 1)
    return shares


def _nearest_count(realised: np.ndarray, share: float) -> int:
    last = len(realised) - 1
    if share in (0.0, 1.0):  # every sample of one language, including those without loss tokens
        return last if share else 0
    above = min(int(np.searchsorted(realised, share)), last)
    below = max(0, above - 1)
    is_above_nearer = abs(realised[above] - share) < abs(share - realised[below])
    return above if is_above_nearer else below


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
