"""Order of the stream: the component of each position, and the order of samples within it.

`Schedule` assigns positions to components in exact proportion; `EpochOrder` shuffles the samples of
one component. Both are pure functions without state, so any position is reached without replay.
"""

import dataclasses
import heapq
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from core.errors import ConfigError
from core.rng import FeistelPermutation, Name, named_rng

MAX_PERIOD = 1 << 18
"""Maximum length of the schedule's table; weights with four decimals stay far below it."""
MAX_DENOMINATOR = 1000
"""Largest denominator of a fractional number of samples per step."""
_WEIGHT_TOLERANCE = 1e-6
_MAX_TABLE_SIZE = 1 << 14
_MAX_CACHED_BLOCKS = 4

Permutation = Callable[[np.ndarray], np.ndarray]
"""Maps indices to their images under a permutation of range(n)."""


@dataclasses.dataclass(frozen=True, slots=True)
class ComponentAssignment:
    """The component assigned to each position, and the index of the sample within it."""

    component: np.ndarray
    index_in_component: np.ndarray
    """Counts the component's positions from the start of the stream, across epochs."""


class Schedule:
    """Assigns positions to components so that none is ever a full sample off its share.

    This is Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980):
    with k components, no prefix deviates by more than 1 - 1/(2k-2). One period is precomputed.
    """

    def __init__(self, samples_per_step: Sequence[float]) -> None:
        weights = [_exact_fraction(weight) for weight in samples_per_step]
        total = sum(weights, start=Fraction(0))
        if not weights or total.denominator != 1:
            raise ConfigError(
                f"samples_per_step sum to {float(total):g} ({', '.join(map(str, weights))}), "
                "expected a whole number of samples per optimizer step; change one of them"
            )
        self.samples_per_step = int(total)
        common = math.lcm(*(weight.denominator for weight in weights))
        counts = [int(weight * common) for weight in weights]
        divisor = math.gcd(*counts)
        self.counts = np.asarray([count // divisor for count in counts], dtype=np.int64)
        self.period = int(self.counts.sum())
        if self.period > MAX_PERIOD:
            raise ConfigError(
                f"samples_per_step {', '.join(map(str, weights))} have a period of "
                f"{self.period} samples, at most {MAX_PERIOD} are supported; round them to "
                "fractions with a small common denominator"
            )
        self._component = _assign_period([int(count) for count in self.counts])
        self._offsets = [np.flatnonzero(self._component == c) for c in range(len(weights))]
        self._index_in_period = np.empty(self.period, dtype=np.int64)
        for offsets in self._offsets:
            self._index_in_period[offsets] = np.arange(len(offsets))

    def __call__(self, positions: np.ndarray) -> ComponentAssignment:
        """Return component and index of each position (int64, in any order)."""
        cycle, offset = np.divmod(positions, self.period)
        component = self._component[offset]
        index = cycle * self.counts[component] + self._index_in_period[offset]
        return ComponentAssignment(component, index)

    def prefix_counts(self, position: int) -> np.ndarray:
        """Return the number of samples of each component before a position."""
        cycle, offset = divmod(position, self.period)
        partial = [int(np.searchsorted(offsets, offset)) for offsets in self._offsets]
        return cycle * self.counts + np.asarray(partial, dtype=np.int64)

    def expected(self, num_positions: int) -> np.ndarray:
        """Return the exact share of each component in `num_positions` positions, as float64."""
        cycle, offset = divmod(num_positions, self.period)
        shares: np.ndarray = cycle * self.counts + self.counts * (offset / self.period)
        return shares


class EpochOrder:
    """Order of one epoch: shards are permuted, then samples within blocks of shards.

    Blocks bound the working set of remote shards: only `block_shards` of them are read at a time.
    """

    def __init__(
        self, shard_sizes: np.ndarray, block_shards: int, seed: int, name: str, epoch: int
    ) -> None:
        shards = named_rng(seed, "shards", name, epoch).permutation(len(shard_sizes))
        starts = np.concatenate([[0], np.cumsum(shard_sizes)[:-1]])
        self._shards, self._block_shards = shards, block_shards
        self._sample_start = starts[shards]
        self._shard_start = np.concatenate([[0], np.cumsum(shard_sizes[shards])])
        firsts = np.arange(0, len(shards), block_shards)
        self._block_start = np.append(self._shard_start[firsts], self._shard_start[-1])
        self._names = (seed, name, epoch)
        self._blocks: dict[int, Permutation] = {}

    def __call__(self, offsets: np.ndarray) -> np.ndarray:
        """Return the sample index at each offset (int64 in [0, n)) within the epoch."""
        block = np.searchsorted(self._block_start, offsets, side="right") - 1
        shuffled = np.empty_like(offsets)
        for b in np.unique(block):
            here, start = block == b, self._block_start[b]
            shuffled[here] = start + self._permutation(int(b))(offsets[here] - start)
        shard = np.searchsorted(self._shard_start, shuffled, side="right") - 1
        samples: np.ndarray = self._sample_start[shard] + shuffled - self._shard_start[shard]
        return samples

    def block_of(self, offset: int) -> int:
        """Return the block of an offset within the epoch."""
        return int(np.searchsorted(self._block_start, offset, side="right")) - 1

    def end_of(self, block: int) -> int:
        """Return the end offset of a block."""
        return int(self._block_start[block + 1])

    def shards_of(self, block: int) -> list[int]:
        """Return the shards of a block; its first samples may come from any of them."""
        first = block * self._block_shards
        shards: list[int] = self._shards[first : first + self._block_shards].tolist()
        return shards

    def _permutation(self, block: int) -> Permutation:
        if block not in self._blocks:
            while len(self._blocks) >= _MAX_CACHED_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            seed, name, epoch = self._names
            size = int(self._block_start[block + 1] - self._block_start[block])
            names = ("samples", name, epoch, block)
            self._blocks[block] = permutation(size, seed, *names)
        return self._blocks[block]


def permutation(n: int, seed: int, *names: Name) -> Permutation:
    """Return a Feistel permutation, tabulated if small, because steps look up few indices each."""
    feistel = FeistelPermutation(n, seed, *names)
    return feistel if n > _MAX_TABLE_SIZE else _TabulatedPermutation(feistel(np.arange(n)))


def round_permutation(size: int, num_rounds: int, seed: int, name: str) -> Permutation:
    """Return the permuted indices by which a component chooses samples in the target language.

    If the source consists of rounds, all indices of a round are below those of the next one in a
    random order of rounds, so that a share takes whole rounds as far as possible.
    """
    if num_rounds == 1:
        return permutation(size, seed, "language", name)
    length = size // num_rounds
    rounds = permutation(num_rounds, seed, "language", name, "rounds")
    permuted = [
        int(rounds(np.array([at]))[0]) * length
        + permutation(length, seed, "language", name, "round", at)(np.arange(length))
        for at in range(num_rounds)
    ]
    return _TabulatedPermutation(np.concatenate(permuted))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _TabulatedPermutation:
    """A tabulated permutation; a class and not a closure, so that loader workers can pickle it."""

    values: np.ndarray

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.values[indices])


def _exact_fraction(weight: float) -> Fraction:
    fraction = Fraction(weight).limit_denominator(MAX_DENOMINATOR)
    if weight <= 0 or abs(fraction - Fraction(weight)) > _WEIGHT_TOLERANCE:
        raise ConfigError(
            f"samples_per_step={weight!r}, expected a positive fraction with a denominator up to "
            f"{MAX_DENOMINATOR} (nearest: {fraction}); remove unused components"
        )
    return fraction


def _assign_period(counts: list[int]) -> np.ndarray:
    """Assign one period: each step goes to the released component with the earliest deadline.

    With total L and k components, the r-th sample (r = 0, 1, ...) of a component with c samples per
    period is released at step m >= (r + e) L / c and has the deadline (r + 1 - e) L / c, where
    e = 1/(2k-2).
    """
    total, slack = sum(counts), max(2, 2 * len(counts) - 2)
    component = np.empty(total, dtype=np.int64)
    waiting = [(_ceil_div(total, slack * count), c, 0) for c, count in enumerate(counts)]
    heapq.heapify(waiting)
    due: list[tuple[Fraction, int, int]] = []
    for step in range(1, total + 1):
        while waiting and waiting[0][0] <= step:
            _, c, index = heapq.heappop(waiting)
            heapq.heappush(due, (Fraction(slack * (index + 1) - 1, counts[c]), c, index))
        _, c, index = heapq.heappop(due)
        component[step - 1] = c
        if index + 1 < counts[c]:
            release = _ceil_div((slack * (index + 1) + 1) * total, slack * counts[c])
            heapq.heappush(waiting, (release, c, index + 1))
    return component


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
