"""Resampling of whole clusters, as products of draw counts and cluster sums.

A resample draws as many clusters as there are, with replacement. It is described by how often it
draws each cluster, and the mean of every row of values then follows from one matrix product.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from core.errors import DataError
from core.rng import Name, named_rng

NUM_RESAMPLES = 20_000
_CHUNK_COUNTS = 1 << 18
"""Draw counts that are converted to floating point at a time; they fit into a CPU cache."""
_BLOCK_COUNTS = 1 << 14
"""Draws that are counted at a time; codes and counts of 8 bytes each fit into a small CPU cache."""
_CACHED_COUNTS = 1 << 24
"""Largest number of draw counts (one byte each) that is kept for the next call."""
_DISTINCT_COST = 8
"""Time of a count of equal clusters (binomial) relative to one of a single cluster."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClusterTotals:
    """Sums of values per cluster.

    M rows of values have the same items, and the items belong to C clusters.
    """

    sums_MC: np.ndarray
    """Sum of the values of every cluster."""
    sizes_C: np.ndarray
    """Number of items of every cluster."""

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(self.sizes_C)

    @property
    def means(self) -> np.ndarray:
        """Mean over the items of every row, shape (M,)."""
        means: np.ndarray = self.sums_MC.sum(axis=1) / self.sizes_C.sum()
        return means


def total_clusters(values_MI: np.ndarray, clusters: Sequence[str] | np.ndarray) -> ClusterTotals:
    """Add up values per cluster.

    Args:
        values_MI: Rows of values, one column per item; a single row may have shape (I,).
        clusters: Cluster of every item.

    Raises:
        DataError: If there are no values, or their number differs from that of the clusters.
    """
    values_MI = np.atleast_2d(np.asarray(values_MI, dtype=np.float64))
    num_items = values_MI.shape[1]
    if num_items == 0 or num_items != len(clusters):
        raise DataError(
            f"{num_items} values and {len(clusters)} clusters; expected one cluster per value, "
            "and at least one"
        )
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    return ClusterTotals(
        sums_MC=np.stack([np.bincount(codes, weights=row) for row in values_MI]),
        sizes_C=np.bincount(codes).astype(np.float64),
    )


def bootstrap_rows(
    totals: ClusterTotals,
    *,
    seed: int,
    names: Sequence[Name] = (),
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """Return the means of all rows in the same resamples of clusters, shape (num_resamples, M)."""
    columns_NC = np.vstack([totals.sums_MC, totals.sizes_C])
    means_RM = np.empty((num_resamples, len(totals.sums_MC)))
    if totals.num_clusters * num_resamples <= _CACHED_COUNTS:
        chunks = _kept_chunks(seed, tuple(names), totals.num_clusters, num_resamples)
    else:
        # Equal clusters are drawn together: with few distinct ones, their number does not matter.
        distinct_ND, copies_D = np.unique(columns_NC, axis=1, return_counts=True)
        if len(copies_D) * _DISTINCT_COST < totals.num_clusters:
            columns_NC = distinct_ND
            chunks = _draw_distinct(seed, tuple(names), copies_D, num_resamples)
        else:
            chunks = _draw_counts(seed, tuple(names), totals.num_clusters, num_resamples)
    start = 0
    for counts_RC in chunks:
        sums_RN = counts_RC.astype(np.float64) @ columns_NC.T
        stop = start + len(counts_RC)
        means_RM[start:stop] = sums_RN[:, :-1] / sums_RN[:, -1:]
        start = stop
    return means_RM


def _kept_chunks(
    seed: int, names: tuple[Name, ...], num_clusters: int, num_resamples: int
) -> Iterator[np.ndarray]:
    """Yield how often each resample draws each cluster, shape (resamples, clusters), in chunks."""
    kept = _kept_counts(seed, names, num_clusters, num_resamples)
    rows = max(1, _CHUNK_COUNTS // num_clusters)
    for start in range(0, num_resamples, rows):
        yield kept[start : start + rows]


def _draw_distinct(
    seed: int, names: tuple[Name, ...], copies_D: np.ndarray, num_resamples: int
) -> Iterator[np.ndarray]:
    """Yield how often each resample draws each of D kinds of clusters, in chunks."""
    rng = named_rng(seed, "bootstrap", "distinct", *names)
    rows = max(1, _CHUNK_COUNTS // len(copies_D))
    num_clusters = int(copies_D.sum())
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        yield rng.multinomial(num_clusters, copies_D / num_clusters, size=size)


@functools.lru_cache(maxsize=8)
def _kept_counts(
    seed: int, names: tuple[Name, ...], num_clusters: int, num_resamples: int
) -> np.ndarray:
    return np.concatenate(list(_draw_counts(seed, names, num_clusters, num_resamples)))


def _draw_counts(
    seed: int, names: tuple[Name, ...], num_clusters: int, num_resamples: int
) -> Iterator[np.ndarray]:
    rng = named_rng(seed, "bootstrap", *names)
    rows = max(1, _CHUNK_COUNTS // num_clusters)
    # Counting uniform draws is ten times faster than Generator.multinomial.
    drawn_type = np.uint16 if num_clusters <= 1 << 16 else np.uint32
    for start in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - start), num_clusters)
        drawn = rng.integers(0, num_clusters, size=shape, dtype=drawn_type)
        # A cluster is drawn once on average; more than 255 times never happens.
        counts = np.empty(shape, dtype=np.uint8)
        block = max(1, _BLOCK_COUNTS // num_clusters)
        for first in range(0, shape[0], block):
            part = drawn[first : first + block]
            codes = np.add(part, np.arange(len(part))[:, None] * num_clusters, dtype=np.int64)
            found = np.bincount(codes.ravel(), minlength=codes.size)
            counts[first : first + block] = found.reshape(codes.shape)
        yield counts
