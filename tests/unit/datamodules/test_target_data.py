"""Amounts of target-language data and exposures of answers, against counts made one by one."""

import json
from collections import Counter

import numpy as np
import pytest

from datamodules.batches.lengths import SourceLengths
from datamodules.batches.target_data import (
    DataAmount,
    TargetData,
    count_exposures,
    load_exposures,
    measure_target_data,
    save_target_data,
)
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream
from pipeline.store.records import load_stage
from tests.support.doubles import make_parallel, make_texts

STEPS, PER_STEP = 9, 6
BAD = 4
LOSS_TOKENS = {"cap_en": 3, "cap_eu": 5, "text": 7}


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    base, target = make_parallel(folder, "cap", shard_sizes=(5, 3, 7))
    names = ["Sagarra.", "sagarra", "zuhaitz  handia", "bat " * 9]
    text = make_texts(folder, "text", text=lambda i: names[i % 4])
    parts = {
        "cap": ComponentConfig(
            base=str(base), target=str(target), target_share=0.4, samples_per_step=4.5
        ),
        "text": ComponentConfig(base=str(text), samples_per_step=1.5),
    }
    return MixtureStream(MixtureConfig(components=parts, seed=3))


@pytest.fixture(scope="module")
def lengths(stream):
    found = {}
    for component in stream.components:
        for source in component.used_sources():
            tokens = np.full(len(source), LOSS_TOKENS[source.name], dtype=np.int32)
            tokens[BAD] = 0
            found[source.name] = SourceLengths(
                num_tokens=2 * tokens, num_loss_tokens=tokens, faults={}, longest=99
            )
    return found


def drawn(stream):
    """Return (source, sample) of every usable position, one by one."""
    found = []
    for position in range(STEPS * PER_STEP):
        located = stream.locate(np.array([position]))
        component = stream.components[int(located.component[0])]
        source = component.source(is_target=bool(located.is_target[0]))
        if int(located.sample[0]) != BAD:
            found.append((source, int(located.sample[0])))
    return found


def test_amounts_count_every_usable_position(stream, lengths):
    uses = Counter((source.name, sample) for source, sample in drawn(stream))

    def amount(name):
        own = {key: count for key, count in uses.items() if key[0] == name}
        total = sum(own.values())
        return DataAmount(
            num_samples=total,
            num_different=len(own),
            num_loss_tokens=total * LOSS_TOKENS[name],
        )

    assert measure_target_data(stream, lengths, num_steps=STEPS) == TargetData(
        language="eu",
        target_images=amount("cap_eu"),
        base_images=amount("cap_en"),
        target_texts=amount("text"),
    )


def test_exposures_count_short_answers_of_the_target_language(stream, lengths):
    expected = {True: Counter(), False: Counter()}
    for source, sample in drawn(stream):
        answer = source.read(sample).turns[-1].content
        if source.name != "cap_en" and len(answer.split()) <= 8:
            expected[source.name == "cap_eu"][answer] += 1

    found = count_exposures(stream, lengths, num_steps=STEPS)
    assert found.language == "eu"
    assert found.with_image == expected[True]
    assert found.without_image == expected[False]
    assert set(found.without_image) == {"Sagarra.", "sagarra", "zuhaitz  handia"}
    assert sum(found.with_image.values()) > 10


def test_results_are_read_back_with_the_stage(stream, lengths, tmp_path):
    data = measure_target_data(stream, lengths, num_steps=STEPS)
    exposures = count_exposures(stream, lengths, num_steps=STEPS)
    result = tmp_path / "align" / "a1" / "result"
    result.mkdir(parents=True)
    save_target_data(result, data, exposures)
    assert load_stage(result.parent).target_data == data
    assert load_exposures(result) == exposures
    assert load_exposures(tmp_path) is None


def test_a_mixture_of_one_language_has_neither(tmp_path):
    text = make_texts(tmp_path, "text")
    part = ComponentConfig(base=str(text), samples_per_step=1)
    stream = MixtureStream(MixtureConfig(components={"text": part}))
    assert measure_target_data(stream, {}, num_steps=3) is None
    assert count_exposures(stream, {}, num_steps=3) is None


def test_a_second_target_language_is_in_neither_part(tmp_path):
    base, target = make_parallel(tmp_path, "cap", shard_sizes=(6, 4))
    second = tmp_path / "cap_gl.manifest.json"
    raw = json.loads(target.read_text())
    second.write_text(json.dumps(raw | {"name": "cap_gl", "language": "gl"}))
    parts = {
        name: ComponentConfig(
            base=str(base), target=str(manifest), target_share=0.5, samples_per_step=4
        )
        for name, manifest in (("first", target), ("second", second))
    }
    stream = MixtureStream(MixtureConfig(components=parts, seed=3))
    lengths = {
        source.name: SourceLengths(
            num_tokens=np.full(len(source), 9, dtype=np.int32),
            num_loss_tokens=np.full(len(source), 4, dtype=np.int32), faults={}, longest=9,
        )
        for component in stream.components for source in component.used_sources()
    }  # fmt: skip
    data = measure_target_data(stream, lengths, num_steps=30)
    assert data.language == "eu"
    assert data.target_images.num_samples == 30 * 2
    assert data.base_images.num_samples == 30 * (2 + 2)
