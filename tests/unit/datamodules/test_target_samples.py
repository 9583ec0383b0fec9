"""Numbers of samples by language: exact, nested, and the same images in every combination."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from datamodules.mixture.config import (
    ComponentConfig,
    MixtureConfig,
    Phase,
    ShareOf,
    TargetSamples,
)
from datamodules.mixture.stream import MixtureStream
from datamodules.mixture.target_samples import distribute


class SizedSource:
    """A source without files, named by its size: "first-12" has shards of 5, 5 and 2 samples."""

    def __init__(self, path):
        self.name = path.name
        size = int(path.name.split("-")[1])
        sizes = [5] * (size // 5) + [size % 5] * (size % 5 > 0)
        self.shard_sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self.manifest = SimpleNamespace(fingerprint=lambda: self.name, shards=())
        self.num_rounds = 1

    def __len__(self):
        return int(self.shard_sizes.sum())

    def keys(self):
        return np.arange(len(self))

    def shards_of(self, samples):
        return np.searchsorted(self._starts, samples, side="right") - 1


def make_part(name, rate, *, is_parallel=True, **fields):
    target = f"{name}-eu" if is_parallel else ""
    return ComponentConfig(base=name, target=target, samples_per_step=rate, **fields)


def open_stream(parts, number=None, num_steps=1, seed=3, num_base=None):
    amount = None
    if number is not None:
        amount = TargetSamples(number=number, num_steps=num_steps, num_base=num_base)
    config = MixtureConfig(components=parts, seed=seed, target_samples=amount)
    return MixtureStream(config, open_source=SizedSource, block_shards=2)


def used(stream, num_steps, *, is_target=True):
    """Return the (component, sample) pairs of a stage in one language."""
    located = stream.locate(np.arange(num_steps * stream.samples_per_step))
    here = located.is_target == is_target
    return set(zip(located.component[here].tolist(), located.sample[here].tolist(), strict=True))


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_number_is_distributed_in_proportion_and_monotonically(sizes, data):
    total = sum(sizes)
    number = data.draw(st.integers(0, total))
    counts = distribute(number, sizes)
    assert sum(counts) == number
    for size, count in zip(sizes, counts, strict=True):
        assert 0 <= count <= size
        assert abs(count - number * size / max(1, total)) <= len(sizes) / 2
    if number < total:
        more = distribute(number + 1, sizes)
        assert all(a <= b for a, b in zip(counts, more, strict=True))


@pytest.mark.slow
@given(
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    rates=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    num_steps=st.integers(1, 30),
    seed=st.integers(0, 5),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_exactly_the_number_of_samples_is_read_in_the_target_language(
    sizes, rates, num_steps, seed, data
):
    """Passes over a source are partial or repeated, and numbers are nested."""
    parts = {
        f"{chr(97 + at)}{size}": make_part(f"part{at}-{size}", rate)
        for at, (size, rate) in enumerate(zip(sizes, rates, strict=True))
    }
    parts["text"] = make_part("text-7", 2, is_parallel=False)
    shown = [min(size, rate * num_steps) for size, rate in zip(sizes, rates, strict=True)]
    number = data.draw(st.integers(0, sum(shown)))
    smaller = data.draw(st.integers(0, number))
    streams = [open_stream(parts, n, num_steps, seed) for n in (number, smaller, 0)]
    large, small, none = (used(stream, num_steps) for stream in streams)
    assert (len(large), len(small), len(none)) == (number, smaller, 0)
    assert small <= large
    positions = np.arange(num_steps * streams[0].samples_per_step)
    orders = [stream.locate(positions).sample for stream in streams]
    assert np.array_equal(orders[0], orders[2])
    names = {source.name for part in streams[0].components for source in part.used_sources()}
    assert any(name.endswith("-eu") for name in names) == (number > 0)


def test_a_number_equals_the_share_of_a_whole_pass():
    by_share = open_stream({"a": make_part("a-40", 8, target_share=0.3)})
    by_number = open_stream({"a": make_part("a-40", 8)}, number=12, num_steps=25)
    assert used(by_share, 25) == used(by_number, 25)
    assert by_number.components[0].configured_share(0) == 0.3


def test_more_than_the_stage_serves_is_refused():
    parts = {"a": make_part("a-40", 2), "b": make_part("b-4", 2)}
    with pytest.raises(
        ConfigError, match=r"target_samples=25 need 25 .* the 10 steps .* serve 24;"
    ):
        open_stream(parts, number=25, num_steps=10)
    assert len(used(open_stream(parts, number=24, num_steps=10), 10)) == 24


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_share": 0.5}, "has a target_share, and the mixture has target_samples=3"),
        ({"phases": [Phase(from_step=2, target_share=0.5)]}, "remove the share, also from phases"),
        ({"share_of": ShareOf.LOSS_TOKENS}, "counts samples; remove share_of"),
        ({"is_parallel": False}, "no component has a second language"),
    ],
)
def test_what_needs_a_share_excludes_a_number(fields, message):
    with pytest.raises(ConfigError, match=message):
        open_stream({"a": make_part("a-40", 2, **fields)}, number=3, num_steps=10)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(8, 16), min_size=1, max_size=2),
    seed=st.integers(0, 5),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_numbers_of_both_languages_are_exact_and_mean_the_same_samples(sizes, seed, data):
    """Each pair of amounts is compared with twice the one and with twice the other."""
    quarter = min(sizes) // 4
    number, base = (data.draw(st.integers(1, quarter)) * len(sizes) for _ in range(2))

    def sets(number, base):
        parts = {f"c{at}": make_part(f"part{at}-{n}", 1) for at, n in enumerate(sizes)}
        num_steps = 2 * max(sizes)
        stream = open_stream(parts, number, num_steps, seed, num_base=base)
        assert stream.components[0].configured_share(0) > 0
        first = len(stream.components[0])
        shown = stream.locate(np.arange(num_steps * len(sizes)))
        epoch = shown.sample[(shown.component == 0) & (shown.epoch == 1)]
        assert len(set(epoch.tolist())) == min(len(epoch), first)
        found = [used(stream, num_steps, is_target=flag) for flag in (True, False)]
        assert [len(part) for part in found] == [number, base]
        assert not found[0] & found[1]
        return found

    target, others = sets(number, base)
    more_target, same_others = sets(2 * number, base)
    same_target, more_others = sets(number, 2 * base)
    assert same_others == others
    assert same_target == target
    assert target < more_target
    assert others < more_others


def test_numbers_of_both_languages_must_fit_every_component():
    parts = {"a": make_part("a-40", 2), "b": make_part("b-4", 2)}
    with pytest.raises(ConfigError, match="and base_samples=30 need 50 different samples"):
        open_stream(parts, number=20, num_steps=20, num_base=30)
    with pytest.raises(ConfigError, match="give component 'b' 0 samples, but it serves 4"):
        open_stream(parts, number=2, num_steps=20, num_base=2)
