"""Every name is trained often enough at 20 %; withheld names never are in the target language."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from configuration.axes import name_cells
from configuration.run_config import RunConfig
from core.config import load_config
from datamodules.batches.lengths import SourceLengths
from datamodules.batches.target_data import count_exposures
from datamodules.mixture.stream import MixtureStream
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source
from experiments.grids import mix_ablation
from pipeline.stages.align import AlignStage
from pipeline.stages.instruct import InstructStage

FOLDER = Path("data/embedded")
ENOUGH = 8


@cache
def captions(source):
    """Return the captions of the single concepts of a source, in Basque."""
    opened = Source(FOLDER / f"{source}_eu.manifest.json")
    samples = (opened.read(i, with_image=False) for i in range(len(opened)))
    return {s.turns[-1].content for s in samples if "single" in s.key}


def exposures(stage):
    stream = MixtureStream(stage.stream.mixture)
    lengths = {}
    for component in stream.components:
        for source in component.used_sources():
            ones = np.ones(len(source), dtype=np.int32)
            lengths[source.name] = SourceLengths(
                num_tokens=ones, num_loss_tokens=ones, faults={}, longest=1
            )
    return count_exposures(stream, lengths, num_steps=stage.num_steps)


def cells(*overrides):
    base = load_config(RunConfig, Path("configs/embedded.yaml"), overrides=overrides)
    return [cell.config for cell in name_cells(mix_ablation.cells(base))]


def test_a_tenth_of_the_names_is_withheld():
    manifest = load_manifest(FOLDER / "withheld_instruct_eu.manifest.json")
    assert len(manifest.statistics["withheld"]) == len(captions("withheld_caption")) == 24
    assert len(captions("emoji_caption")) == 216
    assert not captions("emoji_caption") & captions("withheld_caption")


@pytest.mark.parametrize("seed", range(3))
def test_at_a_fifth_every_name_is_an_answer_eight_times(seed):
    """In every cell of the default study with a share of 20 % or more, for any seed."""
    for config in cells(f"cell.seed={seed}"):
        share = config.cell.target_share
        if config.cell.text_only or share not in (0.2, 1.0):
            continue
        found = exposures(InstructStage.from_config(config)).with_image
        assert min(found.get(name, 0) for name in captions("emoji_caption")) >= ENOUGH, share


def test_withheld_names_are_never_answers_about_target_language_images():
    names = captions("withheld_caption")
    for config in (c for c in cells() if c.cell.target_share in (0.2, 1.0)):
        for stage in (AlignStage.from_config(config), InstructStage.from_config(config)):
            found = exposures(stage)
            answered = {part for answer in found.with_image for part in answer.split(", ")}
            assert not names & answered
            if found.without_image:
                assert names & set(found.without_image)


def test_no_question_about_the_other_images_names_a_withheld_concept():
    """A name among the choices would already tie it to an image."""
    names = captions("withheld_caption")
    source = Source(FOLDER / "emoji_instruct_eu.manifest.json")
    for sample in (source.read(i, with_image=False) for i in range(len(source))):
        for turn in sample.turns:
            assert not {word for word in names if f" {word}" in f" {turn.content}"}, turn.content


def test_yes_and_no_are_balanced_per_image_and_kind():
    source = Source(FOLDER / "emoji_instruct_en.manifest.json")
    counts = {"yes": 0, "no": 0}
    checks = {"yes": 0, "no": 0}
    for sample in (source.read(i, with_image=False) for i in range(len(source))):
        for question, answer in zip(sample.turns[::2], sample.turns[1::2], strict=True):
            if answer.content in counts:
                is_check = question.content.removeprefix("<image>\n").startswith("In the picture")
                (checks if is_check else counts)[answer.content] += 1
    for found in (counts, checks):
        assert abs(found["yes"] - found["no"]) < 0.05 * sum(found.values()), json.dumps(found)
    assert sum(checks.values()) == len(source)


def test_rounds_are_alike():
    """Each round has the same number of samples, and shows every name equally often, up to two."""
    source = Source(FOLDER / "emoji_instruct_eu.manifest.json")
    length = len(source) // source.num_rounds
    assert (len(source), source.num_rounds) == (3240, 5)
    for first in range(0, len(source), length):
        answers = [
            turn.content
            for i in range(first, first + length)
            for turn in source.read(i, with_image=False).turns[1::2]
        ]
        counts = [answers.count(name) for name in captions("emoji_caption")]
        assert min(counts) >= 4


def test_every_kind_is_asked_often_enough_per_image():
    """Names, choices and categories are as frequent as before there were rounds."""
    manifest = load_manifest(FOLDER / "emoji_instruct_eu.manifest.json")
    rates = {k: n / manifest.num_samples for k, n in manifest.statistics["num_questions"].items()}
    assert rates["name"] >= 0.66
    assert rates["choice"] >= 0.42
    assert rates["category"] >= 0.33
    assert rates["count_things"] + rates["count_name"] >= 0.66


@pytest.mark.parametrize("start", ["How many things", "How many times"])
def test_numbers_are_balanced(start):
    source = Source(FOLDER / "emoji_instruct_en.manifest.json")
    answers = [
        answer.content
        for sample in (source.read(i, with_image=False) for i in range(len(source)))
        for question, answer in zip(sample.turns[::2], sample.turns[1::2], strict=True)
        if question.content.removeprefix("<image>\n").startswith(start)
    ]
    shares = [answers.count(word) / len(answers) for word in ("one", "two", "three", "four")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.19
    assert max(shares) < 0.3
