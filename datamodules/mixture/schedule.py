"""Which component is next, and which of its samples: two pure functions of a position.

`Schedule` deals positions to components in exact proportion; `EpochOrder` walks one component's
shards. Neither holds a state, so any position is reached without replay.
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
"""Entries of the schedule's table; weights with four decimals stay far below."""
MAX_DENOMINATOR = 1000
"""Fractions of a sample per step have at most this denominator."""
_EXACTNESS = 1e-6
_TABLED = 1 << 14
_KEPT_BLOCKS = 4

Permutation = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class ComponentAssignment:
    """The component assigned to each position, and the index of the sample within it."""

    component: np.ndarray
    index_in_component: np.ndarray
    """Counts the component's positions from the start of the stream, across epochs."""


class Schedule:
    """Deals positions to components so that each is never a full sample from its share.

    Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980): with k
    components no prefix deviates by more than 1 - 1/(2k-2). One period is computed ahead.
    """

    def __init__(self, samples_per_step: Sequence[float]) -> None:
        weights = [_exact(weight) for weight in samples_per_step]
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
                f"samples_per_step {', '.join(map(str, weights))} repeat only after "
                f"{self.period} samples, at most {MAX_PERIOD} are tabled; round them to "
                "fractions with a small common denominator"
            )
        self._component = _deal([int(count) for count in self.counts])
        self._places = [np.flatnonzero(self._component == c) for c in range(len(weights))]
        self._index_in_period = np.empty(self.period, dtype=np.int64)
        for places in self._places:
            self._index_in_period[places] = np.arange(len(places))

    def __call__(self, positions: np.ndarray) -> ComponentAssignment:
        """Component and rank of positions (int64, any order)."""
        turn, place = np.divmod(positions, self.period)
        component = self._component[place]
        index = turn * self.counts[component] + self._index_in_period[place]
        return ComponentAssignment(component, index)

    def prefix_counts(self, position: int) -> np.ndarray:
        """Samples of each component before a position."""
        turn, place = divmod(position, self.period)
        partial = [int(np.searchsorted(places, place)) for places in self._places]
        return turn * self.counts + np.asarray(partial, dtype=np.int64)

    def expected(self, num_positions: int) -> np.ndarray:
        """The exact share of each component in so many positions: a fraction, as float64."""
        turn, place = divmod(num_positions, self.period)
        shares: np.ndarray = turn * self.counts + self.counts * (place / self.period)
        return shares


class EpochOrder:
    """The order of one epoch: shards permuted, then samples permuted inside blocks of shards.

    Blocks keep remote shards local: only `block_shards` of them are wanted at a time.
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

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Sample index at each place (int64 in [0, n)) of the epoch."""
        block = np.searchsorted(self._block_start, places, side="right") - 1
        shuffled = np.empty_like(places)
        for b in np.unique(block):
            here, start = block == b, self._block_start[b]
            shuffled[here] = start + self._permutation(int(b))(places[here] - start)
        shard = np.searchsorted(self._shard_start, shuffled, side="right") - 1
        samples: np.ndarray = self._sample_start[shard] + shuffled - self._shard_start[shard]
        return samples

    def block_of(self, place: int) -> int:
        """The block that a place of the epoch falls in."""
        return int(np.searchsorted(self._block_start, place, side="right")) - 1

    def end_of(self, block: int) -> int:
        """The place after a block's last."""
        return int(self._block_start[block + 1])

    def shards_of(self, block: int) -> list[int]:
        """The shards of a block; all of them are wanted from its first samples on."""
        first = block * self._block_shards
        shards: list[int] = self._shards[first : first + self._block_shards].tolist()
        return shards

    def _permutation(self, block: int) -> Permutation:
        if block not in self._blocks:
            while len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            seed, name, epoch = self._names
            size = int(self._block_start[block + 1] - self._block_start[block])
            names = ("samples", name, epoch, block)
            self._blocks[block] = permutation(size, seed, *names)
        return self._blocks[block]


def permutation(n: int, seed: int, *names: Name) -> Permutation:
    """A Feistel permutation, written out where it is small: steps ask for few places each."""
    feistel = FeistelPermutation(n, seed, *names)
    return feistel if n > _TABLED else _Table(feistel(np.arange(n)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A permutation written out. A class, because loader workers get it pickled."""

    values: np.ndarray

    def __call__(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self.values[places])


def _exact(weight: float) -> Fraction:
    fraction = Fraction(weight).limit_denominator(MAX_DENOMINATOR)
    if weight <= 0 or abs(fraction - Fraction(weight)) > _EXACTNESS:
        raise ConfigError(
            f"samples_per_step={weight!r}, expected a positive fraction with a denominator up to "
            f"{MAX_DENOMINATOR} (nearest: {fraction}); leave an unused component out"
        )
    return fraction


def _deal(counts: list[int]) -> np.ndarray:
    """One period: among the components due, the one whose deadline is next.

    With total L and k components, the r-th sample (r = 0, 1, ...) of a component that gets c per
    period is due from step m >= (r + e) L / c on and has deadline (r + 1 - e) L / c, where
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
