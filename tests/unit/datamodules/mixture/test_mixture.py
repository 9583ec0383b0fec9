"""The mixture stream: a pure function of the position; shares exact and nested."""

import hashlib

import numpy as np
import pytest

from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream, differences
from tests.support.doubles import make_captions, make_parallel, make_texts


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    base, target = make_parallel(folder, "cap", shard_sizes=(5, 3, 7))
    return {
        "en": str(base),
        "eu": str(target),
        "text": str(make_texts(folder, "text", shard_sizes=(4, 2))),
        "extra": str(make_captions(folder, "extra", shard_sizes=(11,))),
    }


def parallel(paths, share, per_step=4.5, **kwargs):
    return ComponentConfig(
        base=paths["en"],
        target=paths["eu"],
        target_share=share,
        samples_per_step=per_step,
        **kwargs,
    )


def make_stream(paths, share=0.4, seed=3, **more):
    components = {
        "cap": parallel(paths, share),
        "text": ComponentConfig(base=paths["text"], samples_per_step=1.5),
        **more,
    }
    return MixtureStream(MixtureConfig(components=components, seed=seed))


def test_the_order_of_existing_runs_does_not_change(paths):
    """Golden order from before curricula and token shares; existing checkpoints rely on it."""
    stream = make_stream(paths)
    expected = "d89516b8d08c8f356f9cc29fc81800d1c8c55f02bdb7cfe5801c23178113f8bc"
    assert stream.fingerprint() == expected
    located = stream.locate(np.arange(20))
    assert located.sample.tolist() == [
        *(12, 2, 2, 13, 7, 0, 4, 1, 5, 14),
        *(1, 8, 9, 6, 3, 11, 3, 4, 5, 10),
    ]
    assert np.flatnonzero(located.is_target).tolist() == [0, 1, 4, 11, 13, 19]
    far = stream.locate(np.arange(10**9, 10**9 + 10**4))
    fields = (far.component, far.is_target, far.epoch, far.sample)
    content = np.stack([field.astype("<i8") for field in fields]).tobytes()
    expected = "709a1900f09b83e013b9f74adf62a955b3898ba48d0b2fe4240897c4508061de"
    assert hashlib.sha256(content).hexdigest() == expected


def by_component(stream, located):
    """Return the (sample, is_target) pairs of each component in order."""
    result = {}
    for c, component in enumerate(stream.components):
        here = located.component == c
        samples, flags = located.sample[here].tolist(), located.is_target[here].tolist()
        result[component.name] = list(zip(samples, flags, strict=True))
    return result


def test_locate_is_pure_and_vectorised(paths):
    stream, again = make_stream(paths), make_stream(paths)
    positions = np.arange(200)
    whole = stream.locate(positions)
    shuffled = np.random.default_rng(0).permutation(positions)
    parts = again.locate(shuffled)
    for field in ("component", "is_target", "epoch", "sample"):
        assert np.array_equal(getattr(whole, field)[shuffled], getattr(parts, field))


def test_every_epoch_has_every_sample_once(paths):
    stream = make_stream(paths)
    located = stream.locate(np.arange(600))
    for c, component in enumerate(stream.components):
        here = located.component == c
        for epoch in range(int(located.epoch[here].max())):
            samples = located.sample[here & (located.epoch == epoch)]
            assert sorted(samples) == list(range(len(component)))


def test_seed_changes_the_order(paths):
    a, b = (make_stream(paths, seed=s).locate(np.arange(60)) for s in (0, 1))
    assert not np.array_equal(a.sample, b.sample)
    assert np.array_equal(a.component, b.component)


def test_adding_a_component_keeps_the_order_of_the_others(paths):
    small = make_stream(paths)
    extra = ComponentConfig(base=paths["extra"], samples_per_step=2)
    large = make_stream(paths, another=extra)
    before = by_component(small, small.locate(np.arange(120)))
    after = by_component(large, large.locate(np.arange(160)))
    assert set(after) == {"another", "cap", "text"}
    for name in ("cap", "text"):
        assert after[name] == before[name][: len(after[name])]
        assert len(after[name]) > 25


def test_shares_are_exact_nested_and_keep_the_images(paths):
    shares = [0.0, 0.1, 0.2, 0.4, 0.5, 0.8, 1.0]
    located = [make_stream(paths, share).locate(np.arange(600)) for share in shares]
    n = 15
    previous = np.zeros(600, dtype=bool)
    for share, here in zip(shares, located, strict=True):
        assert np.array_equal(here.sample, located[0].sample)
        assert not (previous & ~here.is_target).any()
        in_epoch = (here.component == 0) & (here.epoch == 2)
        assert int(in_epoch.sum()) == n
        assert int(here.is_target[in_epoch].sum()) == int(np.floor(share * n + 0.5))
        previous = here.is_target


def test_an_image_has_the_same_language_in_all_epochs(paths):
    located = make_stream(paths).locate(np.arange(600))
    here = located.component == 0
    flags = {}
    for sample, flag in zip(located.sample[here], located.is_target[here], strict=True):
        flags.setdefault(int(sample), set()).add(bool(flag))
    assert all(len(values) == 1 for values in flags.values())


def test_realised_counts(paths):
    stream = make_stream(paths)
    located = stream.locate(np.arange(13, 113))
    counts = stream.realised(13, 113)
    assert sum(counts.values()) == 100
    assert counts["text"] == int((located.component == 1).sum())
    assert counts["cap_eu"] == int(located.is_target.sum())
    # One whole epoch of the parallel component: 15 samples, 6 of them in the target language.
    assert make_stream(paths).realised(0, 20) == {"cap_en": 9, "cap_eu": 6, "text": 5}
    assert "cap_eu" not in make_stream(paths, 0.0).realised(0, 20)


def test_epochs_are_checked(paths):
    stream = MixtureStream(
        MixtureConfig(components={"cap": parallel(paths, 0.4, per_step=3, max_epochs=2)})
    )
    stream.check_epochs(10)
    assert stream.epochs(10) == {"cap": 2.0}
    message = r"'cap' \(15 samples\) would be repeated 2\.20 times in 11 steps.*at most 10 steps"
    with pytest.raises(ConfigError, match=message):
        stream.check_epochs(11)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base": ""}, "without 'base'"),
        ({"target_share": 1.5}, "target_share=1.5, expected a share within 0..1"),
        ({"target_share": float("nan")}, "target_share=nan"),
        ({"target_share": 0.5}, "target_share=0.5 needs 'target'"),
        ({"samples_per_step": 0.0}, "samples_per_step=0.0, expected a positive"),
        ({"samples_per_step": float("inf")}, "samples_per_step=inf"),
        ({"max_epochs": 0.0}, "max_epochs=0.0"),
    ],
)
def test_invalid_components_are_rejected(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ComponentConfig(**{"base": "a", "samples_per_step": 1.0, **kwargs})


def test_invalid_mixtures_are_rejected(paths):
    with pytest.raises(ConfigError, match="no components"):
        MixtureConfig(components={})
    config = MixtureConfig(components={"a": parallel(paths, 0.1, per_step=1.5)})
    with pytest.raises(ConfigError, match="whole number"):
        MixtureStream(config)
    with pytest.raises(ConfigError, match="block_shards=0"):
        MixtureStream(config, block_shards=0)


def test_fingerprint_and_differences(paths):
    one, two = make_stream(paths), make_stream(paths, share=0.5)
    assert one.fingerprint() == make_stream(paths).fingerprint()
    assert one.fingerprint() != two.fingerprint()
    extra = ComponentConfig(base=paths["extra"], samples_per_step=2)
    assert differences(one.description(), two.description()) == [
        "components.cap.target_share: 0.4 -> 0.5"
    ]
    assert differences(one.description(), make_stream(paths, new=extra).description()) == [
        "components.new was added"
    ]
    assert differences({"a": 1}, {}) == ["a was removed"]


def test_the_order_of_the_file_does_not_matter(paths):
    forward = make_stream(paths)
    backward = MixtureStream(
        MixtureConfig(
            components=dict(reversed(forward.config.components.items())),
            seed=forward.config.seed,
        )
    )
    a, b = (stream.locate(np.arange(50)) for stream in (forward, backward))
    assert np.array_equal(a.sample, b.sample)
    assert forward.fingerprint() == backward.fingerprint()
