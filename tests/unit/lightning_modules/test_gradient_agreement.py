"""Cosine between the gradients of two languages, against gradients of the languages alone."""

import dataclasses

import pytest
import torch

from configuration.trainer import TrainerConfig
from core.errors import ConfigError
from core.samples import MicroBatch
from lightning_modules.gradient_agreement import gradient_agreement
from models.vlm import VisionLanguageModel
from tests.support.models.tiny_vlm import build_model
from tests.unit.lightning_modules.test_source_losses import pack, ready, samples


@pytest.fixture
def model() -> VisionLanguageModel:
    return build_model(num_layers=1)


def gradient(model: VisionLanguageModel, language: str) -> torch.Tensor:
    """Return the gradient of the samples of a language, each in a forward pass of its own."""
    model.zero_grad()
    for sample in samples():
        if sample.ref.language == language:
            model(pack([[sample]])).loss_sum.backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(found)


def step() -> list[MicroBatch]:
    parts = samples()
    return [pack([parts[:2], parts[2:4]]), pack([parts[4:]])]


def test_the_cosine_is_that_of_the_languages_alone(model: VisionLanguageModel) -> None:
    found = gradient_agreement(model, step(), ("en", "eu"))
    english, basque = (gradient(model, language) for language in ("en", "eu"))
    expected = torch.nn.functional.cosine_similarity(english, basque, dim=0)
    assert found["gradient_cosine/en-eu"] == pytest.approx(float(expected), abs=1e-5)
    # The connector has no gradient, because no sample has an image.
    assert found.keys() == {"gradient_cosine/en-eu", "gradient_cosine/en-eu/language_model"}


def test_equal_samples_agree(model: VisionLanguageModel) -> None:
    first = ready(2, "caption_en")
    ref = dataclasses.replace(first.ref, source="caption_eu", language="eu")
    second = dataclasses.replace(first, ref=ref)
    found = gradient_agreement(model, [pack([[first, second]])], ("en", "eu"))
    assert found["gradient_cosine/en-eu"] == pytest.approx(1.0, abs=1e-6)


def test_nothing_of_the_training_changes(model: VisionLanguageModel) -> None:
    model(step()[0]).loss_sum.backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    gradient_agreement(model, step(), ("en", "eu"))
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_language_without_tokens_has_no_cosine(model: VisionLanguageModel) -> None:
    only = pack([[ready(2, "caption_en")]])
    assert gradient_agreement(model, [only], ("en", "eu")) == {}


def test_measurements_between_two_lines_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"not a multiple of trainer\.log_every_n_steps=10"):
        TrainerConfig(gradient_agreement_every_n_steps=15)
