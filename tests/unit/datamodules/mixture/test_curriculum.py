"""Phases of a curriculum: exact proportions within each, and epochs that continue across them."""

import dataclasses

import numpy as np
import pytest

from core.config import dump_config, load_config
from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, MixtureConfig, Phase, ShareOf
from datamodules.mixture.stream import MixtureStream, differences
from tests.support.doubles import make_captions, make_parallel, make_texts

PER_STEP = 6


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curriculum")
    base, target = make_parallel(folder, "cap", shard_sizes=(5, 3, 7))
    return {
        "en": str(base),
        "eu": str(target),
        "text": str(make_texts(folder, "text", shard_sizes=(4, 2))),
        "late": str(make_captions(folder, "late", shard_sizes=(11,))),
    }


def make_config(paths, *, share=0.2):
    cap = ComponentConfig(
        base=paths["en"],
        target=paths["eu"],
        target_share=share,
        samples_per_step=4.5,
        phases=[
            Phase(from_step=7, samples_per_step=2.5, target_share=0.6),
            Phase(from_step=12, target_share=0.4),
            Phase(from_step=30, samples_per_step=4.5),
        ],
    )
    text = ComponentConfig(base=paths["text"], samples_per_step=1.5)
    late = ComponentConfig(
        base=paths["late"],
        samples_per_step=0,
        phases=[Phase(from_step=7, samples_per_step=2), Phase(from_step=30, samples_per_step=0)],
    )
    return MixtureConfig(components={"cap": cap, "text": text, "late": late}, seed=3)


def steps(located, first, stop):
    """Return a mask of the positions of some steps."""
    place = np.arange(len(located.sample))
    return (place >= first * PER_STEP) & (place < stop * PER_STEP)


def test_each_phase_has_its_own_shares(paths):
    stream = MixtureStream(make_config(paths))
    located = stream.locate(np.arange(60 * PER_STEP))
    cap, late, text = (stream.names.index(name) for name in ("cap", "late", "text"))
    expected = [
        (0, 7, {cap: 31.5, late: 0, text: 10.5}),
        (7, 12, {cap: 12.5, late: 10, text: 7.5}),
        (12, 30, {cap: 45, late: 36, text: 27}),
        (30, 60, {cap: 135, late: 0, text: 45}),
    ]
    for first, stop, counts in expected:
        here = located.component[steps(located, first, stop)]
        for c, count in counts.items():
            assert abs(int((here == c).sum()) - count) < 1
            assert count or not (here == c).any()


def test_epochs_and_images_continue_across_phases(paths):
    stream = MixtureStream(make_config(paths))
    located = stream.locate(np.arange(60 * PER_STEP))
    unchanged = MixtureStream(
        MixtureConfig(
            components={
                "cap": ComponentConfig(base=paths["en"], samples_per_step=4.5),
                "text": ComponentConfig(base=paths["text"], samples_per_step=1.5),
            },
            seed=3,
        )
    ).locate(np.arange(60 * PER_STEP))
    for c, other in ((0, 0), (2, 1)):
        mine = located.sample[located.component == c]
        theirs = unchanged.sample[unchanged.component == other]
        shorter = min(len(mine), len(theirs))
        assert shorter > 80
        assert np.array_equal(mine[:shorter], theirs[:shorter])


@pytest.mark.slow
def test_languages_are_exact_and_nested_across_phases(paths):
    stream = MixtureStream(make_config(paths))
    located = stream.locate(np.arange(3000 * PER_STEP))
    mine = located.component == stream.names.index("cap")
    sets = []
    for first, stop in ((0, 7), (7, 12), (12, 30), (30, 3000)):
        here = mine & located.is_target & steps(located, first, stop)
        sets.append(set(located.sample[here].tolist()))
    assert len(sets[3]) == 6
    assert sets[0] <= sets[3]
    assert sets[2] <= sets[3]
    assert len(stream.components[0].num_target_samples) == 4
    assert stream.components[0].num_target_samples == (3, 9, 6, 6)
    assert not sets[1] <= sets[3], "the control: more images in the phase of the larger share"


def test_locate_is_pure_and_accepts_positions_in_any_order(paths):
    stream, again = (MixtureStream(make_config(paths)) for _ in range(2))
    positions = np.random.default_rng(0).permutation(50 * PER_STEP)
    whole, parts = stream.locate(np.arange(50 * PER_STEP)), again.locate(positions)
    for field in ("component", "is_target", "epoch", "sample", "phase"):
        assert np.array_equal(getattr(whole, field)[positions], getattr(parts, field))
    for position in (0, 41, 42, 43, 180, 299):
        counts = np.bincount(whole.component[:position], minlength=3)
        assert np.array_equal(stream.schedule.prefix_counts(position), counts)


def test_a_phase_is_part_of_the_fingerprint(paths):
    config = make_config(paths)
    stream = MixtureStream(config)
    text = dataclasses.replace(
        config.components["text"], phases=[Phase(from_step=5, samples_per_step=1.5)]
    )
    other = MixtureStream(
        dataclasses.replace(config, components={**config.components, "text": text})
    )
    changed = differences(stream.description(), other.description())
    assert changed == ["components.text.phases was added"]
    assert stream.realised(0, 7 * PER_STEP)["late"] == 0


def test_configuration_round_trip(paths, tmp_path):
    config = make_config(paths)
    (tmp_path / "mixture.yaml").write_text(dump_config(config))
    assert load_config(MixtureConfig, tmp_path / "mixture.yaml") == config


def test_samples_are_counted_over_the_phases(paths):
    cap = make_config(paths).components["cap"]
    assert [cap.samples_in(n) for n in (0, 7, 10, 30, 32)] == [0, 31.5, 39, 89, 98]
    assert cap.at(6) == (4.5, 0.2)
    assert cap.at(7) == (2.5, 0.6)
    assert cap.at(29) == (2.5, 0.4)


def test_epochs_are_checked_over_the_phases(paths):
    config = make_config(paths)
    late = dataclasses.replace(config.components["late"], max_epochs=2)
    stream = MixtureStream(
        dataclasses.replace(config, components={**config.components, "late": late})
    )
    message = r"'late' \(11 samples\) would be repeated 4\.18 times in 40 steps.*at most 18 steps"
    with pytest.raises(ConfigError, match=message):
        stream.check_epochs(40)
    with pytest.raises(ConfigError, match=r"phase from step 30 never begins in 30 steps"):
        stream.check_epochs(30)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"from_step": 0, "target_share": 0.1}, "from step 0, expected 1 or more"),
        ({"from_step": 4}, "from step 4 changes nothing"),
        ({"from_step": 4, "samples_per_step": -1.0}, "samples_per_step=-1.0, expected 0 or more"),
        ({"from_step": 4, "samples_per_step": float("nan")}, "samples_per_step=nan"),
        ({"from_step": 4, "target_share": 1.5}, "target_share=1.5, expected a share within"),
    ],
)
def test_invalid_phases_are_rejected(phase, message):
    with pytest.raises(ConfigError, match=message):
        Phase(**phase)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {
                "phases": [
                    Phase(from_step=9, samples_per_step=1),
                    Phase(from_step=9, samples_per_step=2),
                ]
            },
            "from step 9 is followed by phase from step 9; list phases in ascending order",
        ),
        ({"phases": [Phase(from_step=9, target_share=0.3)]}, "target_share=0.3 needs 'target'"),
        ({"share_of": ShareOf.LOSS_TOKENS}, "share_of=loss_tokens needs 'target'"),
        (
            {"samples_per_step": 0.0, "phases": [Phase(from_step=9, samples_per_step=0)]},
            "samples_per_step=0.0, expected a positive",
        ),
    ],
)
def test_invalid_components_are_rejected(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ComponentConfig(**{"base": "a", "samples_per_step": 1.0, **kwargs})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (3.0, "sum to 6 at step 0 and to 7 from step 5, expected the same sum in every phase"),
        (2.5, "from step 5: samples_per_step sum to 6.5"),
    ],
)
def test_every_phase_must_have_the_same_step_size(paths, samples, message):
    text = ComponentConfig(
        base=paths["text"],
        samples_per_step=2,
        phases=[Phase(from_step=5, samples_per_step=samples)],
    )
    late = ComponentConfig(base=paths["late"], samples_per_step=4)
    with pytest.raises(ConfigError, match=message):
        MixtureStream(MixtureConfig(components={"text": text, "late": late}))


def test_every_phase_must_have_an_active_component(paths):
    text = ComponentConfig(
        base=paths["text"],
        samples_per_step=2,
        phases=[Phase(from_step=5, samples_per_step=0), Phase(from_step=6, samples_per_step=2)],
    )
    with pytest.raises(ConfigError, match="from step 5: no component has samples_per_step"):
        MixtureStream(MixtureConfig(components={"text": text}))


def test_token_shares_need_lengths(paths):
    cap = ComponentConfig(
        base=paths["en"],
        target=paths["eu"],
        target_share=0.5,
        samples_per_step=1,
        share_of=ShareOf.LOSS_TOKENS,
    )
    config = MixtureConfig(components={"cap": cap})
    with pytest.raises(ConfigError, match=r"'cap' has share_of=loss_tokens, which needs the len"):
        MixtureStream(config)
    stream = MixtureStream(
        config,
        count_loss_tokens=lambda source: np.full(len(source), 4 if source.language == "eu" else 1),
    )
    assert stream.components[0].num_target_samples == (3,)
    assert stream.description()["components"]["cap"]["num_target_samples"] == [3]
    assert stream.description()["components"]["cap"]["share_of"] == "loss_tokens"
