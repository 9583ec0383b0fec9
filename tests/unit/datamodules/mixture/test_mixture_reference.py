"""The order at 3 M samples and 5 sources, against a slow implementation that is obviously right.

The reference deals one position after the other with exact fractions, finds a sample's rank by
counting, walks the shards of an epoch one by one, and permutes with plain Python integers.
"""

import dataclasses
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from core.rng import named_rng
from datamodules.mixture.config import ComponentConfig, MixtureConfig, Phase
from datamodules.mixture.stream import MixtureStream

SEED, BLOCK_SHARDS = 11, 64
NUM_POSITIONS = 10_000_000
SHARD_SIZES = {
    "web": [1000] * 1600,
    "photos": [773] * 1035,
    "chat": [500, 1500] * 200,
    "books": [37] * 4054,
    "rare": [50_000],
}
RATES = {"web": 20.5, "photos": 16.0, "chat": 12.25, "books": 10.0, "rare": 5.25}
SHARES = {"web": 0.2, "photos": 1 / 3}
SIZES = {name: sum(sizes) for name, sizes in SHARD_SIZES.items()}
# Steps of 64 samples: one phase begins in the middle of a period, one pauses a component.
LATER = {"web": [Phase(from_step=20_001, samples_per_step=25.5, target_share=0.6)]}
LATER["rare"] = [
    Phase(from_step=20_001, samples_per_step=0),
    Phase(from_step=30_000, samples_per_step=0.25),
]
LATER["books"] = [
    Phase(from_step=20_001, samples_per_step=10.25),
    Phase(from_step=30_000, samples_per_step=10.0),
]


class SizedSource:
    """A source without files: the order only depends on the sizes of its shards."""

    def __init__(self, path):
        self.name = path.name
        self.shard_sizes = np.asarray(SHARD_SIZES[path.name.removesuffix("_eu")], dtype=np.int64)
        self.manifest = SimpleNamespace(fingerprint=lambda: self.name, shards=())
        self.num_rounds = 1

    def __len__(self):
        return int(self.shard_sizes.sum())

    def keys(self):
        return np.arange(len(self))


def make_config(*, later=None, shares=SHARES, rename=None):
    rename = rename or {}
    components = {
        rename.get(name, name): ComponentConfig(
            base=name,
            target=f"{name}_eu" if name in shares else "",
            target_share=shares.get(name, 0.0),
            samples_per_step=rate,
            phases=(later or {}).get(name, []),
        )
        for name, rate in RATES.items()
    }
    return MixtureConfig(components=components, seed=SEED)


def open_stream(config):
    return MixtureStream(config, block_shards=BLOCK_SHARDS, open_source=SizedSource)


# --- The reference ---


def deal_slowly(rates, num_positions):
    """Tijdeman's rule, literally: among the released components, the earliest deadline wins."""
    total = sum(rates)
    shares, dealt = [rate / total for rate in rates], [0] * len(rates)
    slack = Fraction(1, max(2, 2 * len(rates) - 2))
    sequence = []
    for step in range(1, num_positions + 1):
        due = [c for c in range(len(rates)) if shares[c] * step >= dealt[c] + slack]
        chosen = min(due, key=lambda c: (dealt[c] + 1 - slack) / shares[c])
        dealt[chosen] += 1
        sequence.append(chosen)
    return sequence


def slow_sequence(config):
    """Return the component of every position, and the exact rates of each phase."""
    names = sorted(config.components)
    parts = [config.components[name] for name in names]
    starts = sorted({0, *(phase.from_step for part in parts for phase in part.phases)})
    pieces, rates = [], []
    for step, stop in zip(starts, [*starts[1:], NUM_POSITIONS], strict=True):
        now = {c: Fraction(part.at(step)[0]) for c, part in enumerate(parts)}
        running = [c for c in now if now[c]]
        period = 64 * math.lcm(*(rate.denominator for rate in now.values()))
        twice = deal_slowly([now[c] for c in running], 2 * period)
        assert twice[:period] == twice[period:]
        whole = np.asarray(running, dtype=np.int8)[twice[:period]]
        length = min(64 * (stop - step), NUM_POSITIONS - 64 * step)
        pieces.append(np.resize(whole, length))
        rates.append((64 * step, [now[c] for c in range(len(parts))]))
    return np.concatenate(pieces), rates


def slow_permutation(n, i, *names):
    """The Feistel network of `core.rng` with plain integers."""
    word = (1 << 64) - 1
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    rng = named_rng(SEED, "feistel", *names)
    keys = [int(key) | 1 for key in rng.integers(0, 2**63, size=8, dtype=np.uint64)]
    while True:
        left, right = i >> half, i & mask
        for key in keys:
            mixed = (right + key) & word
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & word
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & word
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        i = (left << half) | right
        if i < n:
            return i


def slow_sample(name, epoch, place):
    """Walk the shards of an epoch, block by block, to an offset in it."""
    sizes = SHARD_SIZES[name]
    first = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    shards = named_rng(SEED, "shards", name, epoch).permutation(len(sizes)).tolist()
    for block, start in enumerate(range(0, len(shards), BLOCK_SHARDS)):
        members = shards[start : start + BLOCK_SHARDS]
        size = sum(sizes[shard] for shard in members)
        if place < size:
            place = slow_permutation(size, place, "samples", name, epoch, block)
            for shard in members:
                if place < sizes[shard]:
                    return first[shard] + place
                place -= sizes[shard]
        place -= size
    raise AssertionError("past the end of the epoch")


def slow_locate(config, sequence, position):
    names = sorted(config.components)
    c = int(sequence[position])
    name = names[c]
    rank = int(np.count_nonzero(sequence[:position] == c))
    epoch, place = divmod(rank, SIZES[name])
    sample = slow_sample(name, epoch, place)
    _, share = config.components[name].at(position // 64)
    speaks = slow_permutation(SIZES[name], sample, "language", name)
    is_target = speaks < math.floor(share * SIZES[name] + 0.5)
    return c, is_target, epoch, sample


# --- The comparisons ---


@pytest.fixture(scope="module", params=[None, LATER], ids=["constant", "curriculum"])
def world(request):
    config = make_config(later=request.param)
    sequence, rates = slow_sequence(config)
    return SimpleNamespace(
        config=config, stream=open_stream(config), sequence=sequence, rates=rates
    )


def test_sizes_are_those_of_the_issue():
    assert 2_990_000 < sum(SIZES.values()) < 3_010_000
    assert len(SIZES) == 5


def test_sampled_positions_match_the_reference(world):
    rng = np.random.default_rng(0)
    edges = [0, 1, 64 * 20_001 - 1, 64 * 20_001, 64 * 30_000 - 1, 64 * 30_000, NUM_POSITIONS - 1]
    positions = np.concatenate([edges, rng.integers(0, NUM_POSITIONS, size=120)])
    located = world.stream.locate(positions)
    fields = (located.component, located.is_target, located.epoch, located.sample)
    found = list(zip(*(field.tolist() for field in fields), strict=True))
    expected = [slow_locate(world.config, world.sequence, int(p)) for p in positions]
    assert found == expected
    assert located.epoch.max() > 5


@pytest.mark.slow
def test_every_position_has_its_component(world):
    step = 1 << 20
    for start in range(0, NUM_POSITIONS, step):
        stop = min(NUM_POSITIONS, start + step)
        dealt = world.stream.schedule(np.arange(start, stop))
        assert np.array_equal(dealt.component, world.sequence[start:stop])


@pytest.mark.slow
def test_shares_are_exact_at_every_sampled_prefix(world):
    rng = np.random.default_rng(1)
    for start, rates in world.rates:
        ends = np.sort(rng.integers(start, NUM_POSITIONS, size=40))
        later = [other for other, _ in world.rates if other > start]
        ends = ends[ends <= (later[0] if later else NUM_POSITIONS)]
        for end in ends.tolist():
            counts = np.bincount(world.sequence[start:end], minlength=5)
            exact = [float(rate * (end - start) / 64) for rate in rates]
            assert np.abs(counts - exact).max() <= 1
            own = world.stream.schedule.prefix_counts(end)
            before = world.stream.schedule.prefix_counts(start)
            assert np.array_equal(own - before, counts)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_epoch_is_a_permutation(name):
    stream = open_stream(make_config())
    component = stream.components[stream.names.index(name)]
    places = np.arange(SIZES[name])
    for epoch in (0, 3):
        samples = component.samples_at(np.full_like(places, epoch), places)
        assert np.array_equal(np.sort(samples), places)
        assert not np.array_equal(samples, places)


@pytest.mark.slow
def test_epochs_continue_across_phases():
    stream = open_stream(make_config(later=LATER))
    c = stream.names.index("books")
    located = stream.locate(np.arange(64 * 35_000))
    mine = located.component == c
    first = located.sample[mine & (located.epoch == 1)]
    assert int(located.phase[mine & (located.epoch == 1)].max()) == 1
    assert int(located.phase[mine & (located.epoch == 1)].min()) == 0
    assert np.array_equal(np.sort(first), np.arange(SIZES["books"]))


def test_the_order_does_not_depend_on_other_components():
    plain = open_stream(make_config())
    others = open_stream(make_config(rename={"books": "zzz", "web": "a", "chat": "b", "rare": "c"}))
    positions = np.arange(1_000_000, 1_060_000)
    seen = []
    for stream in (plain, others):
        located = stream.locate(positions)
        here = located.component == stream.names.index("photos")
        indices = stream.schedule(positions).index_in_component[here]
        facts = zip(located.sample[here], located.is_target[here], strict=True)
        seen.append(dict(zip(indices.tolist(), facts, strict=True)))
    common = seen[0].keys() & seen[1].keys()
    assert len(common) > 14_000
    assert all(seen[0][rank] == seen[1][rank] for rank in common)


def test_shares_are_nested_and_exact():
    previous = np.zeros(SIZES["photos"], dtype=bool)
    for share in (0.0, 0.001, 0.4, 0.400001, 1.0):
        stream = open_stream(make_config(shares={"photos": share}))
        photos = stream.components[stream.names.index("photos")]
        samples = np.arange(SIZES["photos"])
        speaks = photos.in_target(samples, np.zeros_like(samples))
        assert int(speaks.sum()) == math.floor(share * SIZES["photos"] + 0.5)
        assert not (previous & ~speaks).any()
        previous = speaks


def test_the_reference_can_fail():
    """Control: a different share gives a different order of positions."""
    config = make_config()
    sequence, _ = slow_sequence(config)
    other = dataclasses.replace(config, seed=SEED + 1)
    located = open_stream(other).locate(np.arange(200))
    samples = [slow_locate(config, sequence, p)[3] for p in range(0, 200, 10)]
    assert located.sample[::10].tolist() != samples
